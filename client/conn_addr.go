package client

// ConnNetwork is the network that the addresses of a Conn name.
const ConnNetwork = "piped"

// A ConnAddr is the address of a Conn: an endpoint.
type ConnAddr struct {
	// Ref names the endpoint.
	Ref Ref
}

// Network returns ConnNetwork.
func (a ConnAddr) Network() string { return ConnNetwork }

// String returns SESSION[/PIPE]:END.
func (a ConnAddr) String() string { return a.Ref.String() }
