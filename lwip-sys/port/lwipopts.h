/*
 * How gw compiles lwIP: its TCP, and of IP only what TCP needs to send.
 *
 * Frames are parsed, and IP fragments put together, before lwIP sees them;
 * ARP, ICMP, UDP and DHCP are answered elsewhere. What is left out here is
 * code that a hostile guest cannot reach.
 */
#ifndef GW_LWIPOPTS_H
#define GW_LWIPOPTS_H

/* One thread, its own clock, its own timers. */
#define NO_SYS                          1
#define SYS_LIGHTWEIGHT_PROT            0
#define LWIP_TIMERS                     0
#define LWIP_SOCKET                     0
#define LWIP_NETCONN                    0
#define LWIP_STATS                      0

/* Memory comes from malloc; gw bounds it by flows and bytes. */
#define MEM_ALIGNMENT                   8
#define MEM_LIBC_MALLOC                 1
#define MEMP_MEM_MALLOC                 1
#define LWIP_SUPPORT_CUSTOM_PBUF        1
/* The pool is not used; its default size would overflow a u16 at this MSS. */
#define PBUF_POOL_SIZE                  0
#define PBUF_POOL_BUFSIZE               1600
#define PBUF_LINK_HLEN                  14
#define PBUF_LINK_ENCAPSULATION_HLEN    12

/* One netif: the guest's network. */
#define LWIP_SINGLE_NETIF               1
#define LWIP_ARP                        0
#define LWIP_ETHERNET                   0
#define LWIP_RAW                        0
#define LWIP_UDP                        0
#define LWIP_DNS                        0
#define LWIP_DHCP                       0
#define LWIP_ICMP                       0
#define LWIP_IPV4                       1
#define IP_FORWARD                      0
#define IP_REASSEMBLY                   0
#define IP_FRAG                         0
#define LWIP_IPV6                       1
#define LWIP_IPV6_SCOPES                0
#define LWIP_IPV6_MLD                   0
#define LWIP_IPV6_FORWARD               0
#define LWIP_IPV6_FRAG                  0
#define LWIP_IPV6_REASS                 0
/* Only so that ip6.c links; nothing calls into it. */
#define LWIP_ICMP6                      1
#define LWIP_IPV6_SEND_ROUTER_SOLICIT   0
#define LWIP_IPV6_DUP_DETECT_ATTEMPTS   0
#define LWIP_IPV6_AUTOCONFIG            0
#define LWIP_ND6_QUEUEING               0
#define LWIP_ND6_TCP_REACHABILITY_HINTS 0

/* The guest's kernel sums TCP; the IP header's sum is cheap and ours. */
#define CHECKSUM_GEN_IP                 1
#define CHECKSUM_GEN_TCP                0
#define CHECKSUM_CHECK_IP               0
#define CHECKSUM_CHECK_TCP              0

/*
 * TCP. A segment is up to 64 KiB: it leaves as one super-frame that the
 * guest's kernel takes whole. 65495 = 65535 less the IPv4 and TCP headers.
 */
#define LWIP_TCP                        1
#define TCP_TTL                         64
/* gw gives up by its own clock, before lwIP does. */
#define TCP_SYNMAXRTX                   12
#define TCP_MSS                         65495
#define TCP_CALCULATE_EFF_SEND_MSS      1
#define LWIP_WND_SCALE                  1
#define TCP_RCV_SCALE                   8
#define TCP_WND                         (4 * 1024 * 1024)
#define TCP_SND_BUF                     (4 * 1024 * 1024)
#define TCP_SND_QUEUELEN                0xfff0
#define TCP_OVERSIZE                    0
#define TCP_QUEUE_OOSEQ                 1
/* Out-of-order segments held for one connection, in buffers and in bytes: of
   frames that were impaired, too, which are of the MTU's size. */
#define TCP_OOSEQ_MAX_PBUFS             1024
#define TCP_OOSEQ_MAX_BYTES             (1024 * 1024)
#define LWIP_TCP_SACK_OUT               1
#define LWIP_TCP_TIMESTAMPS             0
#define LWIP_TCP_KEEPALIVE              1
#define TCP_LISTEN_BACKLOG              0
#define SO_REUSE                        0
/* gw decides when a window update is worth a packet. */
#define TCP_WND_UPDATE_THRESHOLD        0xffffffffU
/* One slot: learns when a pcb is freed, whatever the reason. */
#define LWIP_TCP_PCB_NUM_EXT_ARGS       1
/* 64 KiB segments and malloc make these checks' arithmetic meaningless. */
#define LWIP_DISABLE_TCP_SANITY_CHECKS  1

/* RFC 6528: initial sequence numbers that cannot be guessed. */
#define LWIP_HOOK_FILENAME              "gw_hooks.h"
#define LWIP_HOOK_TCP_ISN               gw_lwip_tcp_isn
/* Adds no option: it notes which connection a segment is of, for its MSS. */
#define LWIP_HOOK_TCP_OUT_ADD_TCPOPTS(p, hdr, pcb, opts) (gw_lwip_output_pcb = (pcb), (opts))

#endif
