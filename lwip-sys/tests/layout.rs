//! The hand-written declarations against what the C compiler made.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::mem::{offset_of, size_of};

use lwip_sys::{
    gw_lwip_constants, gw_lwip_constants_len, gw_lwip_layout, gw_lwip_layout_len, ip_addr_t, pbuf,
    pbuf_custom, tcp_pcb, tcp_pcb_listen, tcp_seg,
};

/// Size of the field that a path expression names, without a value of the type.
fn size_of_field<T, F>(_: impl FnOnce(&T) -> &F) -> usize {
    size_of::<F>()
}

macro_rules! rows {
    ($map:ident, $type:ident, [$($rust:ident = $c:literal),* $(,)?]) => {
        $( $map.insert($c.to_owned(), (offset_of!($type, $rust), size_of_field(|v: &$type| &v.$rust))); )*
    };
}

fn declared() -> BTreeMap<String, (usize, usize)> {
    let mut map = BTreeMap::new();
    map.insert("ip_addr".to_owned(), (0, size_of::<ip_addr_t>()));
    map.insert("pbuf".to_owned(), (0, size_of::<pbuf>()));
    map.insert("pbuf_custom".to_owned(), (0, size_of::<pbuf_custom>()));
    map.insert(
        "tcp_pcb_listen".to_owned(),
        (0, size_of::<tcp_pcb_listen>()),
    );
    map.insert("tcp_seg".to_owned(), (0, size_of::<tcp_seg>()));
    rows!(
        map,
        tcp_seg,
        [
            next = "tcp_seg.next",
            p = "tcp_seg.p",
            len = "tcp_seg.len",
            flags = "tcp_seg.flags",
            tcphdr = "tcp_seg.tcphdr",
        ]
    );
    map.insert("tcp_pcb".to_owned(), (0, size_of::<tcp_pcb>()));
    rows!(map, ip_addr_t, [type_ = "ip_addr.type"]);
    rows!(
        map,
        pbuf,
        [
            next = "pbuf.next",
            payload = "pbuf.payload",
            tot_len = "pbuf.tot_len",
            len = "pbuf.len",
            type_internal = "pbuf.type_internal",
            flags = "pbuf.flags",
            ref_ = "pbuf.ref",
            if_idx = "pbuf.if_idx",
        ]
    );
    rows!(
        map,
        pbuf_custom,
        [custom_free_function = "pbuf_custom.custom_free_function"]
    );
    rows!(
        map,
        tcp_pcb_listen,
        [
            local_port = "tcp_pcb_listen.local_port",
            accept = "tcp_pcb_listen.accept"
        ]
    );
    rows!(
        map,
        tcp_pcb,
        [
            local_ip = "tcp_pcb.local_ip",
            remote_ip = "tcp_pcb.remote_ip",
            netif_idx = "tcp_pcb.netif_idx",
            so_options = "tcp_pcb.so_options",
            tos = "tcp_pcb.tos",
            ttl = "tcp_pcb.ttl",
            next = "tcp_pcb.next",
            callback_arg = "tcp_pcb.callback_arg",
            ext_args = "tcp_pcb.ext_args",
            state = "tcp_pcb.state",
            prio = "tcp_pcb.prio",
            local_port = "tcp_pcb.local_port",
            remote_port = "tcp_pcb.remote_port",
            flags = "tcp_pcb.flags",
            tmr = "tcp_pcb.tmr",
            rcv_nxt = "tcp_pcb.rcv_nxt",
            rcv_wnd = "tcp_pcb.rcv_wnd",
            rcv_ann_wnd = "tcp_pcb.rcv_ann_wnd",
            rcv_ann_right_edge = "tcp_pcb.rcv_ann_right_edge",
            rcv_sacks = "tcp_pcb.rcv_sacks",
            rtime = "tcp_pcb.rtime",
            mss = "tcp_pcb.mss",
            rttest = "tcp_pcb.rttest",
            sa = "tcp_pcb.sa",
            rto = "tcp_pcb.rto",
            nrtx = "tcp_pcb.nrtx",
            dupacks = "tcp_pcb.dupacks",
            lastack = "tcp_pcb.lastack",
            cwnd = "tcp_pcb.cwnd",
            ssthresh = "tcp_pcb.ssthresh",
            rto_end = "tcp_pcb.rto_end",
            snd_nxt = "tcp_pcb.snd_nxt",
            snd_wl1 = "tcp_pcb.snd_wl1",
            snd_wl2 = "tcp_pcb.snd_wl2",
            snd_lbb = "tcp_pcb.snd_lbb",
            snd_wnd = "tcp_pcb.snd_wnd",
            snd_wnd_max = "tcp_pcb.snd_wnd_max",
            snd_buf = "tcp_pcb.snd_buf",
            snd_queuelen = "tcp_pcb.snd_queuelen",
            bytes_acked = "tcp_pcb.bytes_acked",
            unsent = "tcp_pcb.unsent",
            unacked = "tcp_pcb.unacked",
            ooseq = "tcp_pcb.ooseq",
            refused_data = "tcp_pcb.refused_data",
            listener = "tcp_pcb.listener",
            sent = "tcp_pcb.sent",
            recv = "tcp_pcb.recv",
            errf = "tcp_pcb.errf",
            keep_idle = "tcp_pcb.keep_idle",
            keep_intvl = "tcp_pcb.keep_intvl",
            keep_cnt = "tcp_pcb.keep_cnt",
            persist_cnt = "tcp_pcb.persist_cnt",
            persist_backoff = "tcp_pcb.persist_backoff",
            keep_cnt_sent = "tcp_pcb.keep_cnt_sent",
            snd_scale = "tcp_pcb.snd_scale",
            rcv_scale = "tcp_pcb.rcv_scale",
        ]
    );
    map
}

fn compiled() -> BTreeMap<String, (usize, usize)> {
    // SAFETY: the table is a C constant of exactly that many rows, with string literals for names.
    let rows = unsafe {
        std::slice::from_raw_parts(
            (&raw const gw_lwip_layout).cast::<lwip_sys::gw_layout>(),
            gw_lwip_layout_len,
        )
    };
    rows.iter()
        .map(|row| {
            // SAFETY: names are NUL-terminated string literals.
            let name = unsafe { CStr::from_ptr(row.name) };
            (
                name.to_str().expect("ASCII").to_owned(),
                (row.offset, row.size),
            )
        })
        .collect()
}

#[test]
fn structures_match_the_compiler() {
    let (declared, compiled) = (declared(), compiled());
    for (name, found) in &compiled {
        assert_eq!(
            declared.get(name),
            Some(found),
            "{name}: (offset, size) declared and compiled"
        );
    }
    assert_eq!(declared.len(), compiled.len());
}

#[test]
fn constants_match_the_compiler() {
    use lwip_sys as l;
    // SAFETY: as above.
    let compiled = unsafe {
        std::slice::from_raw_parts(
            (&raw const gw_lwip_constants).cast::<u32>(),
            gw_lwip_constants_len,
        )
    };
    let declared = [
        l::TCP_WND,
        l::TCP_SND_BUF,
        l::TCP_MSS.into(),
        l::TCP_RCV_SCALE.into(),
        l::TCP_WRITE_FLAG_MORE.into(),
        l::TF_ACK_DELAY.into(),
        l::TF_ACK_NOW.into(),
        l::TF_RXCLOSED.into(),
        l::TF_FIN.into(),
        l::TF_NODELAY.into(),
        l::TF_RTO.into(),
        l::TF_WND_SCALE.into(),
        l::TF_SACK.into(),
        l::CLOSED,
        l::LISTEN,
        l::SYN_SENT,
        l::SYN_RCVD,
        l::ESTABLISHED,
        l::FIN_WAIT_1,
        l::FIN_WAIT_2,
        l::CLOSE_WAIT,
        l::CLOSING,
        l::LAST_ACK,
        l::TIME_WAIT,
        u32::try_from(l::PBUF_REF).expect("positive"),
        l::PBUF_FLAG_IS_CUSTOM.into(),
        l::SOF_KEEPALIVE.into(),
        l::IPADDR_TYPE_V4.into(),
        l::IPADDR_TYPE_V6.into(),
    ];
    assert_eq!(declared, compiled);
}
