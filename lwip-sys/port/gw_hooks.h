/*
 * What lwIP calls in gw, and what gw calls in lwIP through shim.c.
 */
#ifndef GW_LWIP_HOOKS_H
#define GW_LWIP_HOOKS_H

#include "lwip/ip_addr.h"

struct pbuf;
struct tcp_hdr;
struct tcp_pcb;

/* The connection whose segment is on its way out; see shim.c. */
extern const struct tcp_pcb *gw_lwip_output_pcb;

u32_t gw_lwip_tcp_isn(const ip_addr_t *local_ip, u16_t local_port,
                      const ip_addr_t *remote_ip, u16_t remote_port);

#endif
