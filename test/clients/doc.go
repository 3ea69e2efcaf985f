// Package clients drives a real daemon with clients of other languages: a Python one and a Node one, which are in the folders here, and
// grpcurl. It also runs what docs/api.md shows. Stubs and libraries are generated and installed anew for each test, outside the
// repository; a program that is missing fails the test. It has no code of its own, only tests.
package clients
