// Package wire is what the front, the keeper and its spawner say to each other.
//
// They talk over SEQPACKET unix sockets, in packets of [Size] bytes that all
// have the same layout, with descriptors beside them. What has no bounded size,
// the arguments of a program for instance, travels in a sealed memfd, the last
// of the descriptors of its message: a blob.
//
// The layout, in bytes, little-endian:
//
//	 0  magic, "pkw"            32  key
//	 3  flags                   36  how many descriptors, over all packets
//	 4  verb                    40  eight arguments of 8 bytes
//	 6  code                   104  how many keys, 2 bytes; length of the text, 2 bytes
//	 8  id of the request      108  48 keys of 4 bytes
//	16  uid of the account     300  text, 200 bytes; 12 bytes of zeros
//
// A packet takes no more than [packetFDs] descriptors. When a message has more,
// packets of the verb [Carry] go before it.
package wire
