package exact

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
	"time"
)

// A stamp is what every message says of itself. None of its texts has a slash
// or a newline.
type stamp struct {
	session, pipe, direction, writer string
	// epoch is that of the lease under which it was sent; 0 where nobody asks.
	epoch uint64
	// number in the writer's sequence, from 1.
	number uint64
	// at is when it was sent, in nanoseconds of the wall clock.
	at int64
}

// stampFields is how many fields stand before the padding and the checksum.
const stampFields = 7

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// message returns the message, padded to size where that is longer. It has no
// newline, so that any framing carries it.
func (s stamp) message(size int) []byte {
	if s.at == 0 {
		s.at = time.Now().UnixNano()
	}
	head := fmt.Appendf(nil, "%s/%s/%s/%s/%d/%d/%d/", s.session, s.pipe, s.direction, s.writer, s.epoch, s.number, s.at)
	for i := 0; len(head)+len("/00000000") < size; i++ {
		head = append(head, byte('a'+(uint64(i)+s.number)%26))
	}
	return fmt.Appendf(head, "/%08x", crc32.Checksum(head, castagnoli))
}

var errTorn = errors.New("torn message")

// readStamp takes a message apart; errTorn says that it is not as it was sent.
func readStamp(msg []byte) (stamp, error) {
	cut := bytes.LastIndexByte(msg, '/')
	if cut < 0 {
		return stamp{}, errTorn
	}
	sum, err := strconv.ParseUint(string(msg[cut+1:]), 16, 32)
	if err != nil || len(msg)-cut != len("/00000000") || uint32(sum) != crc32.Checksum(msg[:cut], castagnoli) {
		return stamp{}, errTorn
	}
	f := strings.SplitN(string(msg[:cut]), "/", stampFields+1)
	if len(f) != stampFields+1 {
		return stamp{}, errTorn
	}
	s := stamp{session: f[0], pipe: f[1], direction: f[2], writer: f[3]}
	var errs [3]error
	s.epoch, errs[0] = strconv.ParseUint(f[4], 10, 64)
	s.number, errs[1] = strconv.ParseUint(f[5], 10, 64)
	s.at, errs[2] = strconv.ParseInt(f[6], 10, 64)
	if errors.Join(errs[:]...) != nil {
		return stamp{}, errTorn
	}
	return s, nil
}
