// SIP over UDP (RFC 3261): all requests and responses of one call have one worker, by its Call-ID.
#include "reuseport_lb_key.h"

// How much of a message is looked through, in windows of so many bytes, and how much of a Call-ID counts. A message whose
// Call-ID is not found there goes by its addresses.
#define WINDOW 64
#define WINDOWS 16

// `:` and what may stand before it (RFC 3261, 7.3.1).
static __always_inline int ends_name(unsigned char c)
{
	return c == ':' || c == ' ' || c == '\t';
}

// Length of the name that a line begins with, if that is the Call-ID's (20.8): `Call-ID`, in capitals or not (7.3.1), or the short
// `i` (7.3.3); else 0. The first of the eight characters is the lowest byte; 0x20 makes small letters of capitals.
static __always_inline unsigned call_id(unsigned long long line)
{
	unsigned long long name = 'c' | 'a' << 8 | 'l' << 16 | 'l' << 24 | (unsigned long long)('-' | 'i' << 8 | 'd' << 16) << 32;

	if (((line | 0x20202020202020) & 0xffffffffffffff) == name)
		return ends_name(line >> 56) ? 7 : 0;
	return ((line | 0x20) & 0xff) == 'i' && ends_name(line >> 8) ? 1 : 0;
}

// Copies the packet from `offset` on; behind its end there are zeros.
static __always_inline void read_window(struct sk_reuseport_md *ctx, unsigned offset, unsigned char *window)
{
	long length = (long)ctx->len - offset;

	__builtin_memset(window, 0, WINDOW);
	// Both ends have to be checked of one variable, so that the verifier knows that it is 1 to WINDOW.
	if (length > WINDOW)
		length = WINDOW;
	if (length > 0)
		bpf_skb_load_bytes(ctx, offset, window, length);
}

unsigned rlb_key(struct sk_reuseport_md *ctx)
{
	unsigned char window[WINDOW];
	unsigned at = 0, key = RLB_TEXT;

	RLB_LOOP for (unsigned offset = RLB_UDP_HEADER; !at && offset < RLB_UDP_HEADER + WINDOWS * WINDOW; offset += WINDOW) {
		read_window(ctx, offset, window);
		RLB_LOOP for (unsigned i = 0; i < WINDOW; i++) {
			unsigned long long line;
			unsigned name;

			if (window[i] != '\n')
				continue;
			if (bpf_skb_load_bytes(ctx, offset + i + 1, &line, sizeof line))
				return RLB_NO_KEY;
			name = call_id(line);
			if (name) {
				at = offset + i + 1 + name;
				break;
			}
		}
	}
	if (!at)
		return RLB_NO_KEY;

	read_window(ctx, at, window);
	RLB_LOOP for (unsigned i = 0; i < WINDOW; i++) {
		if (window[i] == ':' || window[i] == ' ' || window[i] == '\t')
			continue;
		if (window[i] <= '\r')
			break;
		key = rlb_more(key, window[i]);
	}
	return key;
}
