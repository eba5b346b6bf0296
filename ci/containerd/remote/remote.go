// Package remote is a client of the streams that CRI's exec, attach and port-forward give addresses of, over websocket.
//
// Kubernetes: k8s.io/apimachinery/pkg/util/remotecommand documents the protocol v4.channel.k8s.io: the first byte of
// each binary message is its channel. The end of standard input cannot be said in it; v5 can, which containerd up to
// 2.4 does not speak.
package remote

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/net/websocket"
)

// Channels, the first byte of a message.
const (
	channelStdin  = 0
	channelStdout = 1
	channelStderr = 2
	channelStatus = 3
	channelResize = 4
)

const protocol = "v4.channel.k8s.io"

// maxMessage bounds what is read into memory at once.
const maxMessage = 1 << 20

// Size is a terminal's.
type Size struct{ Width, Height uint16 }

// Streams is what a command is connected to. What is nil is not connected.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
	Resize   <-chan Size
}

// Status is how a command ended, as the server reports it: a metav1.Status.
type Status struct {
	Status  string `json:"status"` // Success or Failure
	Reason  string `json:"reason"`
	Message string `json:"message"`
	Details struct {
		Causes []struct {
			Reason  string `json:"reason"`
			Message string `json:"message"`
		} `json:"causes"`
	} `json:"details"`
}

// Code is the command's exit code. A failure without one is an error.
func (s Status) Code() (int, error) {
	if s.Status == "Success" {
		return 0, nil
	}
	if s.Reason == "NonZeroExitCode" {
		for _, c := range s.Details.Causes {
			if c.Reason == "ExitCode" {
				return strconv.Atoi(c.Message)
			}
		}
	}
	return 0, fmt.Errorf("%s: %s", s.Reason, s.Message)
}

func dial(ctx context.Context, address string) (*websocket.Conn, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	u.Scheme = "ws"
	cfg := &websocket.Config{
		Location: u, Origin: &url.URL{Scheme: "http", Host: u.Host}, Version: websocket.ProtocolVersionHybi13,
		Protocol: []string{protocol}, Header: http.Header{},
	}
	c, err := cfg.DialContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", u, err)
	}
	c.MaxPayloadBytes = maxMessage
	return c, nil
}

// split takes a message apart. An empty one is of no channel.
func split(message []byte) (channel byte, payload []byte, ok bool) {
	if len(message) == 0 {
		return 0, nil, false
	}
	return message[0], message[1:], true
}

func send(c *websocket.Conn, channel byte, payload []byte) error {
	return websocket.Message.Send(c, append([]byte{channel}, payload...))
}

// Run speaks for exec and attach until the server says how the command ended, closes, or ctx ends. Input that is left
// then is not read.
func Run(ctx context.Context, address string, s Streams) (Status, error) {
	c, err := dial(ctx, address)
	if err != nil {
		return Status{}, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	if s.In != nil {
		go feed(c, s.In)
	}
	if s.Resize != nil {
		done := make(chan struct{})
		var wait sync.WaitGroup
		wait.Go(func() { resize(c, s.Resize, done) })
		defer wait.Wait()
		defer close(done)
	}
	for {
		var m []byte
		if err := websocket.Message.Receive(c, &m); err != nil {
			if ctx.Err() != nil {
				return Status{}, ctx.Err()
			}
			return Status{}, fmt.Errorf("the stream ended without a status: %w", err)
		}
		channel, payload, ok := split(m)
		if !ok {
			continue
		}
		switch channel {
		case channelStdout, channelStderr:
			w := s.Out
			if channel == channelStderr {
				w = s.Err
			}
			if w == nil {
				if len(payload) > 0 {
					return Status{}, fmt.Errorf("%d bytes on channel %d, which was not asked for", len(payload),
						channel)
				}
				continue
			}
			if _, err := w.Write(payload); err != nil {
				return Status{}, err
			}
		case channelStatus:
			if len(payload) == 0 {
				continue // the server opens each channel with an empty message
			}
			return parseStatus(payload)
		default:
			if len(payload) > 0 {
				return Status{}, fmt.Errorf("%d bytes on channel %d, which has no meaning from the server",
					len(payload), channel)
			}
		}
	}
}

func parseStatus(payload []byte) (Status, error) {
	var s Status
	if err := json.Unmarshal(payload, &s); err != nil {
		return s, fmt.Errorf("status %q: %w", payload[:min(len(payload), 200)], err)
	}
	if s.Status != "Success" && s.Status != "Failure" {
		return s, fmt.Errorf("status %q is neither Success nor Failure", s.Status)
	}
	return s, nil
}

// feed sends input until it or the connection ends.
func feed(c *websocket.Conn, in io.Reader) {
	b := make([]byte, 32<<10)
	for {
		n, err := in.Read(b)
		if n > 0 && send(c, channelStdin, b[:n]) != nil {
			return
		}
		if err != nil {
			return
		}
	}
}

func resize(c *websocket.Conn, sizes <-chan Size, done <-chan struct{}) {
	for {
		select {
		case s := <-sizes:
			b, _ := json.Marshal(s) // two numbers always can
			if send(c, channelResize, b) != nil {
				return
			}
		case <-done:
			return
		}
	}
}

// Forward sends request to a port that port-forward gave an address for, and reads until enough says that it has the
// whole answer.
func Forward(ctx context.Context, address string, port uint16, request string, enough func(answer string) bool) (
	string, error) {
	c, err := dial(ctx, address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	if err := send(c, 0, []byte(request)); err != nil {
		return "", err
	}
	var answer strings.Builder
	begun := [2]bool{}
	for !enough(answer.String()) {
		var m []byte
		if err := websocket.Message.Receive(c, &m); err != nil {
			return answer.String(), fmt.Errorf("the stream ended after %d bytes: %w", answer.Len(),
				errors.Join(err, ctx.Err()))
		}
		channel, payload, ok := split(m)
		if !ok {
			continue
		}
		if channel > 1 {
			return answer.String(), fmt.Errorf("channel %d, but only one port was asked for", channel)
		}
		if !begun[channel] {
			// The first message of a channel is its port, little endian: k8s.io/kubelet/pkg/cri/streaming/portforward.
			if len(payload) != 2 || binary.LittleEndian.Uint16(payload) != port {
				return "", fmt.Errorf("channel %d begins with %x, not with port %d", channel, payload, port)
			}
			begun[channel] = true
			continue
		}
		if channel == 1 {
			return answer.String(), fmt.Errorf("the server said: %s", payload)
		}
		answer.Write(payload)
	}
	return answer.String(), nil
}
