package main

import (
	"bufio"
	"fmt"
	"io"
	"unicode"
	"unicode/utf8"

	"github.com/piped-dev/piped/client"
	"github.com/spf13/cobra"
)

// printFlags say how received messages are printed.
type printFlags struct {
	raw, null bool
	output    *output
}

func (p *printFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVar(&p.raw, "raw", false, "print the bytes alone, without a newline after each message")
	flags.BoolVar(&p.null, "null", false, "end each message with a zero byte instead of a newline")
	p.output = outputFlag(cmd)
	exclusive(cmd, "raw", "null", "output")
}

// A printer prints messages. What it has printed is on its stream after flush.
type printer struct {
	out    *bufio.Writer
	json   bool
	begin  string
	end    string
	escape bool
	// left are bytes of a character that the next part of the message ends.
	left []byte
}

// newPrinter returns a printer. bytes says that the direction has no messages, so
// that nothing may stand between what was received.
func newPrinter(out io.Writer, flags *printFlags, bytes bool) *printer {
	p := &printer{out: bufio.NewWriterSize(out, 64<<10), json: *flags.output == outputJSON}
	plain := !flags.raw && !flags.null && !p.json
	p.escape = plain && isTerminal(out)
	switch {
	case flags.null:
		p.end = "\x00"
	case plain && !bytes:
		p.end = "\n"
	}
	return p
}

func (p *printer) flush() error { return p.out.Flush() }

// message prints one message, or one part of it.
func (p *printer) message(m client.Message) error {
	if p.json {
		return printJSON(p.out, newMessageJSON(m))
	}
	if m.Position.Offset == 0 {
		if _, err := p.out.WriteString(p.begin); err != nil {
			return err
		}
	}
	if p.escape {
		p.escaped(m.Data, !m.More)
	} else if _, err := p.out.Write(m.Data); err != nil {
		return err
	}
	if m.More {
		return nil
	}
	_, err := p.out.WriteString(p.end)
	return err
}

// escaped prints what a terminal would act on as an escape; the rest as it is.
// A failed write is found by flush.
func (p *printer) escaped(data []byte, last bool) {
	if len(p.left) > 0 {
		data = append(p.left, data...)
		p.left = nil
	}
	for len(data) > 0 {
		if !last && !utf8.FullRune(data) {
			p.left = append([]byte(nil), data...)
			return
		}
		r, n := utf8.DecodeRune(data)
		switch {
		case r == utf8.RuneError && n == 1, r < 0x20 && r != '\t' && r != '\n', r == 0x7f:
			_, _ = fmt.Fprintf(p.out, `\x%02x`, data[0])
		case unicode.IsControl(r) && r != '\t' && r != '\n', unicode.Is(unicode.Cf, r):
			_, _ = fmt.Fprintf(p.out, `\u%04x`, r)
		default:
			_, _ = p.out.Write(data[:n])
		}
		data = data[n:]
	}
}

// messageJSON is a received message in JSON. Text is there when the bytes are
// UTF-8; the marks only when they are set.
type messageJSON struct {
	Number    uint64  `json:"number"`
	Offset    uint64  `json:"offset,omitempty"`
	Size      int     `json:"size"`
	Data      []byte  `json:"data"`
	Text      *string `json:"text,omitempty"`
	More      bool    `json:"more,omitempty"`
	Partial   bool    `json:"partial,omitempty"`
	Truncated bool    `json:"truncated,omitempty"`
	Stray     bool    `json:"stray,omitempty"`
}

func newMessageJSON(m client.Message) messageJSON {
	// nil would be null, and an empty message has data like any other.
	data := append([]byte{}, m.Data...)
	value := messageJSON{
		Number: m.Position.Message, Offset: m.Position.Offset, Size: len(data), Data: data,
		More: m.More, Partial: m.Partial, Truncated: m.Truncated, Stray: m.Stray,
	}
	if utf8.Valid(data) {
		text := string(data)
		value.Text = &text
	}
	return value
}
