//go:build integration

package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/senderbound/senderbound/dpop/dpopclient"
	"github.com/senderbound/senderbound/dpop/dpoptest"
)

// An api is examples/resource-server, running.
type api struct {
	*process
	url string
}

var listening = regexp.MustCompile(`(?m)^listening on (\S+)$`)

// startAPI runs the resource server for tokens of a realm of Keycloak, made for audience.
func startAPI(name, issuer, audience string, flags ...string) (*api, error) {
	return runAPI(name, append([]string{"-issuer", issuer, "-audience", audience, "-keycloak"}, flags...)...)
}

// runAPI runs the resource server with these flags and returns when it listens.
func runAPI(name string, flags ...string) (*api, error) {
	program, err := resourceServer()
	if err != nil {
		return nil, err
	}
	p, err := newProcess(name)
	if err != nil {
		return nil, err
	}
	flags = append([]string{"-listen", "127.0.0.1:0"}, flags...)
	if err := p.start(exec.Command(program, flags...)); err != nil {
		return nil, err
	}
	a := &api{process: p}
	return a, p.await(func() bool {
		text, err := p.log(0)
		if match := listening.FindSubmatch(text); err == nil && match != nil {
			a.url = string(match[1])
		}
		return a.url != ""
	}, time.Minute)
}

// resourceServer builds the program, once in a run, and returns its file.
var resourceServer = sync.OnceValues(func() (string, error) {
	program := filepath.Join(runDir, "resource-server")
	build := exec.Command("go", "build", "-o", program, "./resource-server")
	build.Dir = "../examples"
	if output, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build of examples/resource-server: %w\n%s", err, output)
	}
	return program, nil
})

// A call is one request to an API. newCall returns one that is right in everything; a test changes what it is about.
type call struct {
	method, target       string // target is path and query
	field, scheme, token string // of the line with the access token
	key                  *dpopclient.Key
	alter                func(claims map[string]any)        // changes a proof before it is signed
	proofs               func(prove func() string) []string // the lines of the DPoP field; prove makes a new proof
}

func newCall(token string, key *dpopclient.Key) *call {
	return &call{
		method: "GET", target: "/orders", field: "Authorization", scheme: "DPoP", token: token, key: key,
		proofs: func(prove func() string) []string { return []string{prove()} },
	}
}

// request returns c as a request to a.
func (a *api) request(c *call) (*http.Request, error) {
	req, err := http.NewRequest(c.method, a.url+c.target, nil)
	if err != nil {
		return nil, err
	}
	claims := dpopclient.Claims{Method: c.method, URI: a.url + c.target, AccessToken: c.token}
	req.Header[c.field] = []string{c.scheme + " " + c.token}
	req.Header["DPoP"] = c.proofs(func() string { // each value is a line of its own on the wire
		if c.alter != nil {
			return dpoptest.Forge(c.key, claims, func(_, claims map[string]any) { c.alter(claims) })
		}
		return dpoptest.Proof(c.key, claims)
	})
	return req, nil
}

// A verdict is how an API judges a request: what the client is told, and the reason that only the API's log has.
type verdict struct {
	Status int
	Code   string // of the error, "" if there is none
	Reason string
}

var accepted = verdict{Status: http.StatusOK}

// A caller is whom the API takes the client for.
type caller struct {
	Subject           string `json:"sub"`
	ClientID          string `json:"client_id"`
	Scope             string `json:"scope"`
	JKT               string `json:"jkt"`
	SenderConstrained bool   `json:"sender_constrained"`
}

// call makes a request of c and sends it.
func (a *api) call(c *call) (verdict, caller, error) {
	req, err := a.request(c)
	if err != nil {
		return verdict{}, caller{}, err
	}
	return a.send(req)
}

// send sends one request and reads what came of it, from the answer and from the log. A reason in the log belongs to
// this request only while no other is under way, so no test is parallel.
func (a *api) send(req *http.Request) (v verdict, who caller, err error) {
	before, err := a.log(0)
	if err != nil {
		return v, who, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return v, who, err
	}
	defer resp.Body.Close()
	v.Status = resp.StatusCode
	var body struct {
		caller
		Error string `json:"error"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
		return v, who, fmt.Errorf("the body of the answer (%s) is no JSON: %w", resp.Status, err)
	}
	v.Code, who = body.Error, body.caller
	challenges := strings.Join(resp.Header.Values("WWW-Authenticate"), "\n")
	if v.Status == http.StatusUnauthorized && !strings.Contains(challenges, ` error="`+v.Code+`"`) {
		return v, who, fmt.Errorf("the challenge says %q, and the body %q", challenges, v.Code)
	}
	v.Reason, err = a.refusal(len(before))
	return v, who, err
}

// refusal returns the reason of the only refusal that was logged from offset on, or "" if there was none.
func (a *api) refusal(offset int) (string, error) {
	text, err := a.log(offset)
	if err != nil {
		return "", err
	}
	var reasons []string
	for line := range bytes.Lines(text) {
		var record struct {
			Msg  string
			DPoP struct{ Reason string }
		}
		if err := json.Unmarshal(line, &record); err == nil && record.Msg == "dpop: request refused" {
			reasons = append(reasons, record.DPoP.Reason)
		}
	}
	if len(reasons) > 1 {
		return "", fmt.Errorf("one request, and the refusals %q in the log", reasons)
	}
	return strings.Join(reasons, ""), nil
}
