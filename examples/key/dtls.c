// DTLS 1.2 and 1.3 with connection ids (RFC 9146, RFC 9147): a connection has one worker when its client's address changes.
//
// The server chooses the ids, and must choose one that leads to itself: docs/PROGRAMMING.md, "Ids that the server chooses".
#include "reuseport_lb_key.h"

// Bytes of this server's connection ids: a record does not say how many there are.
#define CID_LENGTH 8

// Content type of a record of DTLS 1.2 with a connection id (RFC 9146, 4), which stands behind type, version, epoch and number.
#define TLS12_CID 25
#define CID_OFFSET_12 11

unsigned rlb_key(struct sk_reuseport_md *ctx)
{
	unsigned char first;
	unsigned long long cid;
	int failed;

	if (rlb_read(ctx, 0, &first, 1))
		return RLB_NO_KEY;
	if (first == TLS12_CID)
		failed = rlb_read(ctx, CID_OFFSET_12, &cid, CID_LENGTH);
	else if ((first & 0xf0) == 0x30) // 0b001C: the unified header of DTLS 1.3 with a connection id (RFC 9147, 4).
		failed = rlb_read(ctx, 1, &cid, CID_LENGTH);
	else
		return RLB_NO_KEY; // Handshakes, and those of clients without ids.
	return failed ? RLB_NO_KEY : rlb_fold(cid);
}
