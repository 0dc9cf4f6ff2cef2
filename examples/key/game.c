// A game's own protocol: a session has one worker, also when its player's phone goes from Wi-Fi to the mobile network.
//
//   byte 0..3    "GAME"
//   byte 4       kind: 0 asks for a session, others belong to one
//   byte 5..20   session id, a UUID (RFC 9562), from kind 1 on
#include "reuseport_lb_key.h"

unsigned rlb_key(struct sk_reuseport_md *ctx)
{
	unsigned char header[21];
	unsigned long long first, second;

	if (rlb_read(ctx, 0, header, sizeof header))
		return RLB_NO_KEY;
	if (__builtin_memcmp(header, "GAME", 4) || header[4] == 0)
		return RLB_NO_KEY;
	__builtin_memcpy(&first, header + 5, 8);
	__builtin_memcpy(&second, header + 13, 8);
	// Some bits of a UUID are the same in all of one version, and others tell the time: all count.
	return rlb_fold(first ^ rlb_fold(second));
}
