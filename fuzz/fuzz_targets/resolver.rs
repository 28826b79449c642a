//! Queries of guests, by datagram and stream. The only server refuses at once.
#![no_main]

#[allow(dead_code, reason = "the gateway in memory is not needed here")]
mod common;

use std::time::Duration;

use gw::config::DnsConfig;
use gw::services::dns::{Resolver, Transport};

thread_local! {
    static RESOLVER: (tokio::runtime::Runtime, Resolver) = {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let config = DnsConfig {
            upstreams: vec!["127.0.0.1:9".parse().expect("an address")],
            resolv_conf: "/dev/null".into(),
            search: Some(vec!["example.com".into()]),
            ndots: 1,
            hosts: vec![("db".into(), [192, 0, 2, 1].into())],
            outbound4: None,
            outbound6: None,
            deadline: Duration::from_millis(2),
        };
        (runtime, Resolver::new(config, &common::plan()).expect("valid"))
    };
}

libfuzzer_sys::fuzz_target!(|query: &[u8]| {
    RESOLVER.with(|(runtime, resolver)| {
        for transport in [Transport::Udp, Transport::Tcp] {
            let answer = runtime.block_on(resolver.answer(query, transport));
            if let Some(answer) = answer {
                assert!(
                    answer.len() >= 12 && answer[..2] == query[..2],
                    "not an answer to it"
                );
            }
        }
    });
});
