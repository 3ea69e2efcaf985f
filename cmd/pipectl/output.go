package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// output is the flag -o: text for people, or one JSON object a line.
type output string

const (
	outputText output = "text"
	outputJSON output = "json"
)

// String returns the value.
func (o *output) String() string { return string(*o) }

// Set takes "text" or "json".
func (o *output) Set(text string) error {
	switch output(text) {
	case outputText, outputJSON:
		*o = output(text)
		return nil
	default:
		return fmt.Errorf("it is text or json")
	}
}

// Type names the values in help.
func (o *output) Type() string { return "text|json" }

// outputFlag adds -o to a verb.
func outputFlag(cmd *cobra.Command) *output {
	value := outputText
	cmd.Flags().VarP(&value, "output", "o", "how to print: text, or json with one object a line")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{string(outputText), string(outputJSON)}, cobra.ShellCompDirectiveNoFileComp))
	return &value
}

// printProto prints a message of the contract as one line of JSON, with the
// field names that any JSON client of the API sees.
func printProto(w io.Writer, m proto.Message) error {
	text, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return err
	}
	// protojson varies its white space on purpose; scripts should not see that.
	var line bytes.Buffer
	if err := json.Compact(&line, text); err != nil {
		return err
	}
	line.WriteByte('\n')
	_, err = w.Write(line.Bytes())
	return err
}

// printMade prints what a verb has made: its name, or all of it as JSON.
func (f *factory) printMade(name string, made proto.Message, out output) error {
	if out == outputJSON {
		return printProto(f.out, made)
	}
	_, err := fmt.Fprintln(f.out, name)
	return err
}

// printJSON prints any other value as one line of JSON.
func printJSON(w io.Writer, value any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(value)
}
