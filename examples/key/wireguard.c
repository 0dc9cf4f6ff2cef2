// WireGuard (www.wireguard.com/protocol): what is for one session of the server has one worker, wherever its peer roams.
//
// The server chooses the indices, and must choose one that leads to itself: docs/PROGRAMMING.md, "Ids that the server chooses".
#include "reuseport_lb_key.h"

// Message types: the first byte, with three zeros behind it.
#define INITIATION 1
#define RESPONSE 2
#define COOKIE_REPLY 3
#define TRANSPORT 4

unsigned rlb_key(struct sk_reuseport_md *ctx)
{
	unsigned type, receiver;
	int failed;

	if (rlb_read(ctx, 0, &type, 4))
		return RLB_NO_KEY;
	// Both are little-endian, as BPF is here.
	if (type == RESPONSE)
		failed = rlb_read(ctx, 8, &receiver, 4);
	else if (type == COOKIE_REPLY || type == TRANSPORT)
		failed = rlb_read(ctx, 4, &receiver, 4);
	else
		return RLB_NO_KEY; // Of an initiation the server has chosen nothing yet.
	return failed ? RLB_NO_KEY : receiver;
}
