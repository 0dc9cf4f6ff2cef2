// Over TCP and UDP: clients of one network (/24 of IPv4, /64 of IPv6) have one worker, however often their address changes in it.
#include "reuseport_lb_key.h"

// Places of the client's address in an IP header (RFC 791, 3.1, and RFC 8200, 3).
#define IPV4_SOURCE 12
#define IPV6_SOURCE 8

unsigned rlb_key(struct sk_reuseport_md *ctx)
{
	unsigned long long network = 0;

	if (ctx->eth_protocol == RLB_IPV4) {
		if (bpf_skb_load_bytes_relative(ctx, IPV4_SOURCE, &network, 3, BPF_HDR_START_NET))
			return RLB_NO_KEY;
	} else if (bpf_skb_load_bytes_relative(ctx, IPV6_SOURCE, &network, 8, BPF_HDR_START_NET)) {
		return RLB_NO_KEY;
	}
	return rlb_fold(network);
}
