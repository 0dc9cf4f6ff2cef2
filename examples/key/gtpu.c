// GTP-U (3GPP TS 29.281): the datagrams of one tunnel have one worker.
#include "reuseport_lb_key.h"

// Message types (7.1).
#define END_MARKER 254
#define G_PDU 255

unsigned rlb_key(struct sk_reuseport_md *ctx)
{
	unsigned char header[8];
	unsigned teid;

	if (rlb_read(ctx, 0, header, sizeof header))
		return RLB_NO_KEY;
	// Version 1, and GTP rather than GTP' (5.1).
	if (header[0] >> 4 != 3)
		return RLB_NO_KEY;
	// Echo and the like belong to no tunnel. An error indication names one in an element, not in its header (7.3.1).
	if (header[1] != G_PDU && header[1] != END_MARKER)
		return RLB_NO_KEY;
	__builtin_memcpy(&teid, header + 4, 4);
	return teid;
}
