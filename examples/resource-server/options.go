package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// options are the flags, as given.
type options struct {
	listen, tlsCert, tlsKey       string
	issuer, audience, jwks        string
	introspect, clientID          string
	replay                        string
	nonce, keycloak, allowBearer  bool
	origins, algs, trustedProxies list
	maxAge, leeway, clockSkew     time.Duration
}

// A list is a flag of values separated by commas.
type list []string

func (l *list) String() string { return strings.Join(*l, ",") }

func (l *list) Set(s string) error {
	*l = strings.Split(s, ",")
	return nil
}

// parseOptions reads the command line. Each error is a sentence that says what to change.
func parseOptions(args []string, output io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("resource-server", flag.ContinueOnError)
	f.SetOutput(io.Discard) // a mistake gets one sentence, not the whole list
	f.StringVar(&o.listen, "listen", "127.0.0.1:8080", "address to listen on; port 0 means any")
	f.StringVar(&o.tlsCert, "tls-cert", "", "certificate `file` (PEM), for TLS")
	f.StringVar(&o.tlsKey, "tls-key", "", "private key `file` (PEM), for TLS")
	f.Var(&o.origins, "origin", "the origin that clients address, such as https://api.example.com; of several, separated by commas,\nthe Host selects, and the first names this resource (default from -listen)")
	f.StringVar(&o.issuer, "issuer", "", "`URL` of the issuer whose tokens are taken")
	f.StringVar(&o.audience, "audience", "", "what the tokens must be meant for")
	f.StringVar(&o.jwks, "jwks", "", "`URL` of the issuer's keys, where discovery is not to be used")
	f.StringVar(&o.introspect, "introspect", "", "introspection endpoint `URL`, instead of local JWT validation; -issuer and -audience are\nchecked if they are given")
	f.StringVar(&o.clientID, "client-id", "", "client `ID` of this resource for -introspect (secret: environment CLIENT_SECRET)")
	f.StringVar(&o.replay, "replay", "memory", "where used proofs are remembered: memory; redis://host, or several hosts of a Cluster;\n"+
		"redis+sentinel://host,host/name; infinispan://host, with ?min-nodes=2 if it is clustered; rediss:// and infinispans:// mean TLS; tiered+ before\n"+
		"any of these keeps a memory in front of it (user and password: environment REPLAY_USER and REPLAY_PASSWORD)")
	f.BoolVar(&o.nonce, "nonce", false, "require server nonces (environment NONCE_SECRET: 32 bytes or more, base64url, the same for all\nservers; of several, separated by commas, the first makes nonces, and all are taken)")
	f.BoolVar(&o.keycloak, "keycloak", false, "take tokens as Keycloak makes them")
	f.BoolVar(&o.allowBearer, "allow-bearer", false, "also admit tokens that are bound to no key, under Bearer")
	f.Var(&o.algs, "algs", "algorithms of proofs, such as ES256,PS256")
	f.DurationVar(&o.maxAge, "max-age", 0, "how old a proof may be, such as 60s (default 60s)")
	f.DurationVar(&o.leeway, "leeway", 0, "how far ahead the iat of a proof may lie (default 10s)")
	f.DurationVar(&o.clockSkew, "clock-skew", 0, "how far clocks of servers may differ from true time (default 5s)")
	f.Var(&o.trustedProxies, "trusted-proxies", "`CIDR,…` of proxies whose X-Forwarded-Host and -Proto select among several origins")
	switch err := f.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		f.SetOutput(output)
		f.PrintDefaults()
		return o, err
	case err != nil:
		return o, fmt.Errorf("%w: -help lists the flags", err)
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("%q is no flag: flags begin with a dash", f.Arg(0))
	}
	return o, o.check()
}

func (o *options) check() error {
	switch {
	case (o.introspect == "") != (o.clientID == ""):
		return errors.New("-introspect and -client-id go together: give both or none")
	case o.introspect != "" && os.Getenv("CLIENT_SECRET") == "":
		return errors.New("environment CLIENT_SECRET is empty: set the secret of -client-id, as this resource has it at the issuer")
	case o.introspect != "" && o.jwks != "":
		return errors.New("-jwks is for tokens that are validated here: leave it out, or leave out -introspect")
	case o.issuer == "" && o.introspect == "":
		return errors.New("-issuer is missing: give the URL of the issuer whose tokens are to be taken")
	case o.audience == "" && o.introspect == "":
		return errors.New("-audience is missing: give the name under which the issuer knows this API")
	case (o.tlsCert == "") != (o.tlsKey == ""):
		return errors.New("-tls-cert and -tls-key go together: give both or none")
	case o.maxAge < 0 || o.leeway < 0 || o.clockSkew < 0:
		return errors.New("-max-age, -leeway and -clock-skew are not negative: give durations such as 60s")
	}
	if _, _, err := o.sharedStore(); err != nil {
		return err
	}
	for _, s := range o.origins {
		if u, err := url.Parse(s); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return fmt.Errorf("-origin has %q: give scheme and host, such as https://api.example.com", s)
		}
	}
	return nil
}

// setOrigin sets the default of -origin, given the address listened on: the host as -listen has it.
func (o *options) setOrigin(addr net.Addr) error {
	if len(o.origins) > 0 {
		return nil
	}
	host, _, err := net.SplitHostPort(o.listen)
	if err != nil {
		return fmt.Errorf("-listen: %w", err)
	}
	tcp, ok := addr.(*net.TCPAddr)
	if !ok || tcp.IP.IsUnspecified() {
		return errors.New("-origin is missing: -listen names no host that clients could address")
	}
	o.origins = list{o.scheme() + "://" + net.JoinHostPort(host, strconv.Itoa(tcp.Port))}
	return nil
}

func (o *options) scheme() string {
	if o.tlsCert != "" {
		return "https"
	}
	return "http"
}

func (o *options) proxies() ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	for _, s := range o.trustedProxies {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("-trusted-proxies has %q: give address ranges, such as 10.0.0.0/8 or 192.0.2.7/32", s)
		}
		prefixes = append(prefixes, p)
	}
	return prefixes, nil
}

// fail ends the program with a sentence.
func fail(err error) {
	if !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "resource-server: %v\n", err)
	}
	os.Exit(2)
}
