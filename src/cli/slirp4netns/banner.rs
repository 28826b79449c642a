//! What slirp4netns says on standard output when it starts.

use crate::config::Config;
use crate::policy::HostLoopback;

/// The lines, for a network with IPv4.
pub(super) fn banner(config: &Config) -> String {
    let mut text = format!("Starting slirp\n* MTU:             {}\n", config.plan.mtu);
    if let Some(v4) = config.plan.v4 {
        let dhcp_last = std::net::Ipv4Addr::from(
            u32::from(v4.dhcp_first) + u32::from(v4.dhcp_count.max(1) - 1),
        );
        for (name, value) in [
            ("Network:", v4.net.network()),
            ("Netmask:", v4.net.netmask()),
            ("Gateway:", v4.gateway),
            ("DNS:", v4.dns),
            ("DHCP begin:", v4.dhcp_first),
            ("DHCP end:", dhcp_last),
            ("Recommended IP:", v4.guest),
        ] {
            text.push_str(&format!("* {name:<16} {value}\n"));
        }
        if let Some(path) = &config.slirp4netns_api {
            text.push_str(&format!("* {:<16} {}\n", "API Socket:", path.display()));
        }
        if config.host_loopback == HostLoopback::Open {
            text.push_str(&format!(
                "WARNING: 127.0.0.1:* on the host is accessible as {} (set \
                 --disable-host-loopback to prohibit connecting to 127.0.0.1:*)\n",
                v4.gateway
            ));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::args::{Action, parse};
    use super::super::resolve::resolve;
    use super::*;
    use std::ffi::OsString;

    fn shown(line: &str) -> String {
        match parse(line.split(' ').map(OsString::from)).outcome {
            Ok(Action::Serve(options)) => banner(&resolve(*options).expect("resolves").config),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn it_is_slirp4netns_s() {
        assert_eq!(
            shown("1 tap0"),
            "Starting slirp\n\
             * MTU:             1500\n\
             * Network:         10.0.2.0\n\
             * Netmask:         255.255.255.0\n\
             * Gateway:         10.0.2.2\n\
             * DNS:             10.0.2.3\n\
             * DHCP begin:      10.0.2.15\n\
             * DHCP end:        10.0.2.30\n\
             * Recommended IP:  10.0.2.100\n\
             WARNING: 127.0.0.1:* on the host is accessible as 10.0.2.2 (set \
             --disable-host-loopback to prohibit connecting to 127.0.0.1:*)\n"
        );
        let text =
            shown("--disable-host-loopback --cidr 10.9.0.0/16 -m 65520 -a /tmp/s.sock 1 tap0");
        assert!(text.contains("* Netmask:         255.255.0.0\n"), "{text}");
        assert!(text.ends_with("* API Socket:      /tmp/s.sock\n"), "{text}");
    }
}
