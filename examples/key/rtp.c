// RTP and RTCP on one port (RFC 5761): what comes from one source of synchronisation has one worker, from whatever port.
#include "reuseport_lb_key.h"

unsigned rlb_key(struct sk_reuseport_md *ctx)
{
	unsigned char header[8];
	unsigned ssrc;

	// No RTCP packet is shorter (RFC 3550, 6.6).
	if (rlb_read(ctx, 0, header, 8))
		return RLB_NO_KEY;
	// Version 2 (RFC 3550, 5.1). Others than that are STUN, DTLS or nonsense (RFC 7983, 7).
	if (header[0] >> 6 != 2)
		return RLB_NO_KEY;
	// RTCP's packet types (RFC 5761, 4): the SSRC of the sender is the second word (RFC 3550, 6.4).
	if (header[1] >= 192 && header[1] <= 223) {
		__builtin_memcpy(&ssrc, header + 4, 4);
		return ssrc;
	}
	// RTP: it is the third.
	if (rlb_read(ctx, 8, &ssrc, 4))
		return RLB_NO_KEY;
	return ssrc;
}
