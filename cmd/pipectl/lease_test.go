package main

import (
	"strings"
	"testing"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

func TestLeaseTokenIsReadAsItIsPrinted(t *testing.T) {
	given := leaseToken{role: pipedv1.LeaseRole_LEASE_ROLE_CONSUMER, proof: []byte{0, 1, 0xfe}}
	if given.String() != "consumer-0001fe" {
		t.Errorf("it is printed as %q", &given)
	}
	var got leaseToken
	if err := got.Set(given.String()); err != nil || got.role != given.role || string(got.proof) != string(given.proof) {
		t.Errorf("got %v %x, %v", got.role, got.proof, err)
	}
	for _, text := range []string{"", "writer", "writer-", "writer-0", "writer-xy", "king-00", "00", "unspecified-00"} {
		if err := new(leaseToken).Set(text); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}

func TestTokenInTheEnvironmentIsForItsRoleAlone(t *testing.T) {
	t.Setenv(leaseVariable, "writer-0a")
	var flags leaseFlags
	if got, err := flags.proof(pipedv1.LeaseRole_LEASE_ROLE_WRITER); err != nil || string(got) != "\n" {
		t.Errorf("writer: got %q, %v", got, err)
	}
	if got, err := flags.proof(pipedv1.LeaseRole_LEASE_ROLE_CONSUMER); err != nil || got != nil {
		t.Errorf("consumer: got %q, %v", got, err)
	}
	flags.steal = true
	if got, err := flags.proof(pipedv1.LeaseRole_LEASE_ROLE_WRITER); err != nil || got != nil {
		t.Errorf("with --steal: got %q, %v", got, err)
	}
	// The flag comes first, and is for this command: another role is a mistake.
	flags = leaseFlags{token: leaseToken{role: pipedv1.LeaseRole_LEASE_ROLE_CONSUMER, proof: []byte{1}}}
	if got, err := flags.proof(pipedv1.LeaseRole_LEASE_ROLE_WRITER); !isUsage(err) {
		t.Errorf("flag of another role: got %q, %v; want wrong use", got, err)
	}
}

func TestClientNamesTellWhoItIsAndAreNeverTheSame(t *testing.T) {
	first, second := clientName(), clientName()
	if first == second {
		t.Errorf("twice %q", first)
	}
	if len(first) > 128 || !strings.Contains(first, "@") {
		t.Errorf("got %q", first)
	}
}
