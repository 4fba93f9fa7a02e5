// Customtransport protects a service that is not HTTP: messages as lines of JSON over TCP. All that a transport has to do
// for Verify is in transport.go: say what the method and the target URI are, and pass the fields on as they came.
//
//	go run ./examples/customtransport
//
// It serves on loopback, sends one message twice, and prints both answers: done, and refused as a replay.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"os"

	"github.com/senderbound/senderbound/dpop"
	"github.com/senderbound/senderbound/dpop/atjwt"
	"github.com/senderbound/senderbound/dpop/dpopclient"
	"github.com/senderbound/senderbound/dpop/dpoptest"
	"github.com/senderbound/senderbound/replay/memstore"
)

func main() {
	if err := run(context.Background(), os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	issuer := dpoptest.NewIssuer()
	defer issuer.Close()
	resolver, err := atjwt.NewResolver(ctx, atjwt.Config{Issuer: issuer.URL, Audience: "workshop"})
	if err != nil {
		return err
	}
	store, err := memstore.New(memstore.Config{})
	if err != nil {
		return err
	}
	defer store.Close()
	verifier, err := dpop.NewVerifier(dpop.Config{Resolver: resolver, Replay: store})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go serve(ctx, conn, verifier)
		}
	}()

	key := dpoptest.NewKey()
	token := issuer.Token("workshop", key.JKT(), nil)
	proof := dpoptest.Proof(key, dpopclient.Claims{Method: "START", URI: target("drill"), AccessToken: token})
	m := message{Action: "START", Job: "drill", Authorization: []string{"DPoP " + token}, DPoP: []string{proof}}
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		return err
	}
	defer conn.Close()
	answers := json.NewDecoder(conn)
	for range 2 {
		var a answer
		if err := json.NewEncoder(conn).Encode(m); err != nil {
			return err
		}
		if err := answers.Decode(&a); err != nil {
			return err
		}
		fmt.Fprintf(out, "done: %q, error: %q\n", a.Done, a.Error)
	}
	return nil
}
