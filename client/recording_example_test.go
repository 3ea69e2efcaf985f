//go:build linux

package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// What a program says, recorded while others may receive it, and read again.
func ExampleEndpoint_NewRecorder() {
	ctx := context.Background()
	c, err := client.Dial(ctx, daemonAddr)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	session, err := c.Create(ctx, &pipedv1.CreateSessionRequest{Process: &pipedv1.ProcessSpec{Args: []string{"seq", "2"}}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Delete(ctx, session.GetName(), true)

	recorder, err := c.Endpoint(client.Ref{Session: session.GetName()}).NewRecorder(ctx, client.RecorderOptions{})
	if err != nil {
		log.Fatal(err)
	}
	var file bytes.Buffer
	if err := errors.Join(recorder.Record(ctx, &file), recorder.Close(ctx)); err != nil {
		log.Fatal(err)
	}

	recording, err := client.NewRecordingReader(&file)
	if err != nil {
		log.Fatal(err)
	}
	for {
		event, err := recording.Next()
		if errors.Is(err, io.EOF) {
			break // only behind a stop: a recording that was cut off is another error
		}
		if err != nil {
			log.Fatal(err)
		}
		switch {
		case event.Message != nil:
			fmt.Printf("%s %v: %s\n", event.Direction, event.Message.Position, event.Message.Data)
		case event.Gap != nil:
			fmt.Printf("%s: %v\n", event.Direction, event.Gap)
		case event.Stop != nil:
			fmt.Println(event.Stop.Reason)
		}
	}
	// Output:
	// out 1: 1
	// out 2: 2
	// ended
}
