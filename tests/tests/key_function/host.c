// Asks the key function of an example, compiled for this machine, about packets: each comes from standard input as its length (four
// bytes) and its bytes, from the UDP header on. Prints a key a line.
#include <stdio.h>
#include <string.h>
#include EXAMPLE

int main(void)
{
	// An IP header comes before the packet, of which there are zeros here.
	static unsigned char room[40 + 65536];
	unsigned char *data = room + 40;
	unsigned length;

	while (fread(&length, sizeof length, 1, stdin) == 1) {
		struct sk_reuseport_md ctx;

		if (length > 65536 || fread(data, 1, length, stdin) != length)
			return 1;
		memset(&ctx, 0, sizeof ctx);
		ctx.data = data;
		ctx.data_end = data + length;
		ctx.len = length;
		ctx.eth_protocol = RLB_IPV4;
		ctx.ip_protocol = 17;
		printf("%u\n", rlb_key(&ctx));
	}
	return 0;
}
