package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"

	"github.com/senderbound/senderbound/dpop"
)

// A message asks for something to be done with a job. See target for its URI.
type message struct {
	Action        string   `json:"action"`
	Job           string   `json:"job"`
	Authorization []string `json:"authorization"`
	DPoP          []string `json:"dpop"`
}

// target returns the URI of a job. Its beginning is this service's own and nothing that a message could set.
// The prefix keeps a job called ".." from being a dot segment.
func target(job string) string { return "jobs://workshop/job-" + url.PathEscape(job) }

// An answer is a result, or a refusal with what a client needs to do better.
type answer struct {
	Done       string    `json:"done,omitempty"`
	Error      dpop.Code `json:"error,omitempty"`
	Challenges []string  `json:"challenges,omitempty"`
	Nonce      string    `json:"nonce,omitempty"`
}

// serve answers the messages of one connection until it ends. A real service also limits how large a message may be, and
// how long it waits for one.
func serve(ctx context.Context, conn net.Conn, v dpop.RequestVerifier) {
	defer conn.Close()
	in, out := json.NewDecoder(conn), json.NewEncoder(conn)
	for {
		var m message
		if in.Decode(&m) != nil || out.Encode(handle(ctx, m, v)) != nil {
			return
		}
	}
}

// handle does what one message asks for, if its sender may.
func handle(ctx context.Context, m message, v dpop.RequestVerifier) answer {
	result, err := v.Verify(ctx, dpop.Request{
		Method: m.Action, URI: target(m.Job), Authorization: m.Authorization, DPoP: m.DPoP,
	})
	var refusal *dpop.Error
	if errors.As(err, &refusal) {
		return answer{Error: refusal.Code, Challenges: refusal.Challenges, Nonce: refusal.Nonce}
	}
	return answer{Done: fmt.Sprintf("%s %s for %s", m.Action, m.Job, result.Token.Subject), Nonce: result.Nonce}
}
