/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * What a key function for reuseport-lb is made with: docs/PROGRAMMING.md. It needs no other header:
 *
 *     clang -O2 -g -target bpfel -c key.c -o key.o
 *
 * and the same file compiles for this machine, where a test can call it: cc -O2 key.c test.c
 */
#ifndef REUSEPORT_LB_KEY_H
#define REUSEPORT_LB_KEY_H

/* Version of the contract. It stands in the object, so that one of another version is refused. */
#define RLB_ABI 1

/* What rlb_key returns for a packet that it has no key for: its addresses and ports decide, and `key_fallback` counts it. Any other
 * number is a key, in whichever byte order: it is scattered before it chooses a worker. */
#define RLB_NO_KEY 0xffffffffu

/* Bytes of a UDP header, with which a datagram begins. */
#define RLB_UDP_HEADER 8

/* How IP versions look in `ctx->eth_protocol`. */
#define RLB_IPV4 __builtin_bswap16(0x0800)
#define RLB_IPV6 __builtin_bswap16(0x86dd)

/* Functions that rlb_key uses have to become part of it, since it cannot call any. */
#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif

/* Stands before a loop that shall not be written out in full, which may need more instructions than there are. */
#if defined(__clang__)
#define RLB_LOOP _Pragma("clang loop unroll(disable)")
#else
#define RLB_LOOP
#endif

/* The packet. <linux/bpf.h> and vmlinux.h have it as well, and <bpf/bpf_helpers.h> what is called: include them before this file,
 * if at all. */
#if !defined(__LINUX_BPF_H__) && !defined(__VMLINUX_H__)
struct bpf_sock;
struct sk_reuseport_md {
	union {
		void *data; /* its first byte: the UDP or TCP header begins here */
		unsigned long long data_64;
	};
	union {
		void *data_end; /* behind the last one that can be read in place: not always the end of the packet */
		unsigned long long data_end_64;
	};
	unsigned len;          /* bytes of the whole packet, with that header */
	unsigned eth_protocol; /* RLB_IPV4 or RLB_IPV6 */
	unsigned ip_protocol;  /* 17: UDP, 6: TCP */
	unsigned bind_inany;   /* whether the socket is bound to all addresses */
	unsigned hash;         /* of addresses and ports: what `affinity = "flow"` goes by */
	union {
		struct bpf_sock *sk; /* a socket of the group */
		unsigned long long sk_64;
	};
	union {
		struct bpf_sock *migrating_sk; /* none: rlb_key is only asked about packets */
		unsigned long long migrating_sk_64;
	};
};
#define BPF_HDR_START_NET 1
#endif

unsigned rlb_key(struct sk_reuseport_md *ctx);

static const unsigned rlb_abi_version __attribute__((section("rlb_abi"), used)) = RLB_ABI;

#if defined(__BPF_HELPERS__)
#elif defined(__bpf__)

/* Functions of the kernel, by their numbers in <linux/bpf.h>. Each returns 0, or a negative number and zeros. */

/* Copies bytes of the packet, wherever they are; `offset` counts from `ctx->data`. */
static long (*const bpf_skb_load_bytes)(const void *ctx, unsigned offset, void *to, unsigned length) = (void *)26;

/* With BPF_HDR_START_NET, `offset` counts from the IP header, which lies before `ctx->data`. */
static long (*const bpf_skb_load_bytes_relative)(const void *ctx, unsigned offset, void *to, unsigned length,
						 unsigned start) = (void *)68;

#else

/* The same for tests on this machine: `data` points to all `len` bytes, and before it lies an IP header without options. */

static inline long rlb_copy(const unsigned char *from, unsigned long long most, unsigned offset, void *to, unsigned length)
{
	int there = (unsigned long long)offset + length <= most;
	for (unsigned i = 0; i < length; i++)
		((unsigned char *)to)[i] = there ? from[offset + i] : 0;
	return there ? 0 : -14;
}

static inline long bpf_skb_load_bytes(const void *ctx, unsigned offset, void *to, unsigned length)
{
	const struct sk_reuseport_md *md = (const struct sk_reuseport_md *)ctx;
	return rlb_copy((const unsigned char *)md->data, md->len, offset, to, length);
}

static inline long bpf_skb_load_bytes_relative(const void *ctx, unsigned offset, void *to, unsigned length, unsigned start)
{
	const struct sk_reuseport_md *md = (const struct sk_reuseport_md *)ctx;
	unsigned header = start != BPF_HDR_START_NET ? 0 : md->eth_protocol == RLB_IPV4 ? 20 : 40;
	return rlb_copy((const unsigned char *)md->data - header, (unsigned long long)md->len + header, offset, to, length);
}

#endif

/* Copies bytes of a datagram's payload; returns 0, or something else if it has fewer. With a constant offset and length they are
 * read in place if that is possible, which costs much less than a call. */
static __always_inline int rlb_read(struct sk_reuseport_md *ctx, unsigned offset, void *to, unsigned length)
{
	if (__builtin_constant_p(offset) && __builtin_constant_p(length)) {
		const unsigned char *from = (const unsigned char *)ctx->data + RLB_UDP_HEADER + offset;
		if (from + length <= (const unsigned char *)ctx->data_end) {
			__builtin_memcpy(to, from, length);
			return 0;
		}
	}
	return bpf_skb_load_bytes(ctx, RLB_UDP_HEADER + offset, to, length) != 0;
}

/* A key of more bytes than it has: of eight of them, all of which count (the last steps of MurmurHash3). Never RLB_NO_KEY. */
static __always_inline unsigned rlb_fold(unsigned long long id)
{
	id = (id ^ id >> 33) * 0xff51afd7ed558ccdull;
	id = (id ^ id >> 33) * 0xc4ceb9fe1a85ec53ull;
	return (unsigned)((id ^ id >> 33) & 0x7fffffff);
}

/* A key of a text, byte by byte (FNV-1a): begin with RLB_TEXT. */
#define RLB_TEXT 2166136261u
static __always_inline unsigned rlb_more(unsigned key, unsigned char byte)
{
	return (key ^ byte) * 16777619u;
}

#endif
