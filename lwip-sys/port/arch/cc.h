/*
 * Compiler and platform glue for a hosted 64-bit Linux build.
 */
#ifndef GW_LWIP_ARCH_CC_H
#define GW_LWIP_ARCH_CC_H

#include <stdint.h>
#include <stdlib.h>

/* The C library's, so that lwIP's byte-order macros agree with its headers. */
#include <endian.h>
#ifndef BYTE_ORDER
#error "the C library does not say the byte order"
#endif

/* Never returns and never unwinds: an internal contradiction ends the process. */
_Noreturn void gw_lwip_assert_failed(const char *what, const char *file, int line);
#define LWIP_PLATFORM_ASSERT(x) gw_lwip_assert_failed((x), __FILE__, __LINE__)
#define LWIP_PLATFORM_DIAG(x)

uint32_t gw_lwip_rand(void);
#define LWIP_RAND() gw_lwip_rand()

#endif
