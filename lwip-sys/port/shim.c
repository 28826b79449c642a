/*
 * The few things that lwIP has only as macros, static state or port hooks.
 * No policy: gw sets the values, this file hands them to lwIP.
 */
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "lwip/init.h"
#include "lwip/ip.h"
#include "lwip/ip6.h"
#include "lwip/netif.h"
#include "lwip/pbuf.h"
#include "lwip/priv/tcp_priv.h"
#include "lwip/sys.h"
#include "lwip/tcp.h"
#include "gw_hooks.h"

/* The clock, in milliseconds; gw writes it once per turn of its loop. */
u32_t gw_lwip_now_ms;

u32_t sys_now(void) { return gw_lwip_now_ms; }

/* Written before each segment of a connection; the output function clears it. */
const struct tcp_pcb *gw_lwip_output_pcb;

/* lwIP says that a connection wants timers; gw always looks for itself. */
void tcp_timer_needed(void) {}

_Noreturn void gw_lwip_assert_failed(const char *what, const char *file, int line) {
  fprintf(stderr, "gw: internal error: lwIP assertion \"%s\" failed at %s:%d\n", what, file, line);
  abort();
}

u32_t gw_lwip_rand(void) {
  u32_t value = 0;
  if (getrandom(&value, sizeof value, 0) != sizeof value) {
    gw_lwip_assert_failed("getrandom failed", __FILE__, __LINE__);
  }
  return value;
}

/* RFC 6528: a keyed hash of the connection plus a clock; gw supplies the hash. */
u32_t (*gw_lwip_isn_hook)(const ip_addr_t *, u16_t, const ip_addr_t *, u16_t);

u32_t gw_lwip_tcp_isn(const ip_addr_t *local_ip, u16_t local_port,
                      const ip_addr_t *remote_ip, u16_t remote_port) {
  if (gw_lwip_isn_hook == NULL) {
    return gw_lwip_rand();
  }
  return gw_lwip_isn_hook(local_ip, local_port, remote_ip, remote_port);
}

/*
 * The one netif. Routing wants it to have an IPv4 address; nobody looks at
 * which, because every packet names its own (192.0.0.8 is RFC 7600's dummy).
 */
static struct netif gw_netif;

static err_t gw_netif_init(struct netif *netif) {
  netif->flags = NETIF_FLAG_UP | NETIF_FLAG_LINK_UP;
  netif->name[0] = 'g';
  netif->name[1] = 'w';
  return ERR_OK;
}

void gw_lwip_start(u16_t mtu, err_t (*output)(struct netif *, struct pbuf *, const ip4_addr_t *),
                   err_t (*output6)(struct netif *, struct pbuf *, const ip6_addr_t *)) {
  ip4_addr_t dummy, mask, none;
  IP4_ADDR(&dummy, 192, 0, 0, 8);
  IP4_ADDR(&mask, 255, 255, 255, 255);
  ip4_addr_set_zero(&none);
  lwip_init();
  netif_add(&gw_netif, &dummy, &mask, &none, NULL, gw_netif_init, NULL);
  netif_set_default(&gw_netif);
  gw_netif.output = output;
  gw_netif.output_ip6 = output6;
  gw_netif.mtu = mtu;
  gw_netif.mtu6 = mtu;
}

/*
 * What ip4_input and ip6_input do for TCP once the header is checked: name the
 * packet's addresses, then hand over the segment. `p` starts at the TCP header
 * and is consumed.
 */
void gw_lwip_tcp_input(struct pbuf *p, const ip_addr_t *src, const ip_addr_t *dst) {
  /* ip_current_is_v6() asks only whether this is NULL. */
  static struct ip6_hdr v6_marker;
  ip_data.current_netif = &gw_netif;
  ip_data.current_input_netif = &gw_netif;
  ip_data.current_ip4_header = NULL;
  ip_data.current_ip6_header = IP_IS_V6(src) ? &v6_marker : NULL;
  ip_data.current_ip_header_tot_len = 0;
  ip_addr_copy(ip_data.current_iphdr_src, *src);
  ip_addr_copy(ip_data.current_iphdr_dest, *dst);
  tcp_input(p, &gw_netif);
  ip_data.current_netif = NULL;
  ip_data.current_input_netif = NULL;
  ip_data.current_ip6_header = NULL;
}

/* tcp_ack_now() and the listen list's union, as functions. */
struct tcp_pcb_listen *gw_lwip_new_listener(tcp_accept_fn accept) {
  struct tcp_pcb *pcb = tcp_new_ip_type(IPADDR_TYPE_ANY);
  struct tcp_pcb_listen *listener;
  if (pcb == NULL || tcp_bind(pcb, IP_ANY_TYPE, 1) != ERR_OK) {
    return NULL;
  }
  listener = (struct tcp_pcb_listen *)tcp_listen(pcb);
  if (listener != NULL) {
    tcp_accept((struct tcp_pcb *)listener, accept);
  }
  return listener;
}

void gw_lwip_set_listeners(struct tcp_pcb_listen *only) { tcp_listen_pcbs.listen_pcbs = only; }

/* Offsets and sizes that the Rust declarations must match. */
struct gw_layout {
  const char *name;
  size_t offset;
  size_t size;
};

#define FIELD(type, field) \
  { #type "." #field, offsetof(struct type, field), sizeof(((struct type *)0)->field) }
#define SIZE(type) { #type, 0, sizeof(struct type) }

const struct gw_layout gw_lwip_layout[] = {
  SIZE(ip_addr), FIELD(ip_addr, type),
  SIZE(pbuf), FIELD(pbuf, next), FIELD(pbuf, payload), FIELD(pbuf, tot_len), FIELD(pbuf, len),
  FIELD(pbuf, type_internal), FIELD(pbuf, flags), FIELD(pbuf, ref), FIELD(pbuf, if_idx),
  SIZE(pbuf_custom), FIELD(pbuf_custom, custom_free_function),
  SIZE(tcp_seg), FIELD(tcp_seg, next), FIELD(tcp_seg, p), FIELD(tcp_seg, len),
  FIELD(tcp_seg, flags), FIELD(tcp_seg, tcphdr),
  SIZE(tcp_pcb_listen), FIELD(tcp_pcb_listen, local_port), FIELD(tcp_pcb_listen, accept),
  SIZE(tcp_pcb), FIELD(tcp_pcb, local_ip), FIELD(tcp_pcb, remote_ip), FIELD(tcp_pcb, netif_idx),
  FIELD(tcp_pcb, so_options), FIELD(tcp_pcb, tos), FIELD(tcp_pcb, ttl), FIELD(tcp_pcb, next),
  FIELD(tcp_pcb, callback_arg), FIELD(tcp_pcb, ext_args), FIELD(tcp_pcb, state),
  FIELD(tcp_pcb, prio), FIELD(tcp_pcb, local_port), FIELD(tcp_pcb, remote_port),
  FIELD(tcp_pcb, flags), FIELD(tcp_pcb, tmr), FIELD(tcp_pcb, rcv_nxt), FIELD(tcp_pcb, rcv_wnd),
  FIELD(tcp_pcb, rcv_ann_wnd), FIELD(tcp_pcb, rcv_ann_right_edge), FIELD(tcp_pcb, rcv_sacks),
  FIELD(tcp_pcb, rtime), FIELD(tcp_pcb, mss), FIELD(tcp_pcb, rttest), FIELD(tcp_pcb, sa),
  FIELD(tcp_pcb, rto),
  FIELD(tcp_pcb, nrtx), FIELD(tcp_pcb, dupacks), FIELD(tcp_pcb, lastack), FIELD(tcp_pcb, cwnd),
  FIELD(tcp_pcb, ssthresh), FIELD(tcp_pcb, rto_end), FIELD(tcp_pcb, snd_nxt),
  FIELD(tcp_pcb, snd_wl1), FIELD(tcp_pcb, snd_wl2), FIELD(tcp_pcb, snd_lbb),
  FIELD(tcp_pcb, snd_wnd), FIELD(tcp_pcb, snd_wnd_max), FIELD(tcp_pcb, snd_buf),
  FIELD(tcp_pcb, snd_queuelen), FIELD(tcp_pcb, bytes_acked), FIELD(tcp_pcb, unsent),
  FIELD(tcp_pcb, unacked), FIELD(tcp_pcb, ooseq), FIELD(tcp_pcb, refused_data),
  FIELD(tcp_pcb, listener), FIELD(tcp_pcb, sent), FIELD(tcp_pcb, recv), FIELD(tcp_pcb, errf),
  FIELD(tcp_pcb, keep_idle), FIELD(tcp_pcb, keep_intvl), FIELD(tcp_pcb, keep_cnt),
  FIELD(tcp_pcb, persist_cnt), FIELD(tcp_pcb, persist_backoff), FIELD(tcp_pcb, keep_cnt_sent),
  FIELD(tcp_pcb, snd_scale), FIELD(tcp_pcb, rcv_scale),
};

const size_t gw_lwip_layout_len = sizeof gw_lwip_layout / sizeof gw_lwip_layout[0];

/* Constants, likewise. */
const u32_t gw_lwip_constants[] = {
  TCP_WND, TCP_SND_BUF, TCP_MSS, TCP_RCV_SCALE, TCP_WRITE_FLAG_MORE,
  TF_ACK_DELAY, TF_ACK_NOW, TF_RXCLOSED, TF_FIN, TF_NODELAY, TF_RTO, TF_WND_SCALE,
  TF_SACK,
  CLOSED, LISTEN, SYN_SENT, SYN_RCVD, ESTABLISHED, FIN_WAIT_1, FIN_WAIT_2, CLOSE_WAIT,
  CLOSING, LAST_ACK, TIME_WAIT, PBUF_REF, PBUF_FLAG_IS_CUSTOM, SOF_KEEPALIVE,
  IPADDR_TYPE_V4, IPADDR_TYPE_V6,
};

const size_t gw_lwip_constants_len = sizeof gw_lwip_constants / sizeof gw_lwip_constants[0];
