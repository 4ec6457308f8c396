/* What is fixed while a program is attached. The verifier knows these values: what is off is not even loaded. */
#ifndef COPPICE_SETTINGS_H
#define COPPICE_SETTINGS_H

#include <linux/types.h>

/* The bridge's index, its IPv4 subnet, its gateway and the first words of its IPv6 /64. The rest of the upper 96 bits
 * is zero. In network order. */
const volatile __u32 BRIDGE = 0;
const volatile __be32 SUBNET = 0;
const volatile __be32 SUBNET_MASK = 0;
/* Set in addresses of the subnet's upper half, which are services'. */
const volatile __be32 SERVICES_BIT = 0;
const volatile __be32 GATEWAY = 0;
const volatile __u32 WITH_IPV6 = 0;
const volatile __be32 STEM_0 = 0;
const volatile __be32 STEM_1 = 0;

const volatile __u32 WITH_POLICY = 0;
const volatile __u32 WITH_BALANCE = 0;
const volatile __u32 WITH_METRICS = 0;
const volatile __u32 WITH_NAMES = 0;

#endif
