package redisstore

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/senderbound/senderbound/replay"
)

// A Config says where the servers are and how long to wait for them. Addresses are required for [New]; [ParseURL] takes them
// from a URL.
type Config struct {
	// Addresses are those of the servers, each host:port. Without one of the next three fields there is exactly one: a
	// single Redis or Valkey.
	Addresses []string
	// Cluster says that Addresses are of nodes of a Redis Cluster; the others are found.
	Cluster bool
	// SentinelMaster, if set, is the name of a primary, and Addresses are of the Sentinels that know where it is.
	SentinelMaster string
	// Infinispan says that Addresses are RESP endpoints of one Infinispan, or of several nodes of one Infinispan cluster,
	// which are tried in turn. What its configuration must be is in docs/replay.md; it cannot be seen from here.
	Infinispan bool
	// MinNodes is how many nodes an Infinispan cluster must have to be believed: more than half of them, so that of two
	// parts of a split cluster at most one is. It is required where Infinispan is clustered.
	MinNodes int

	// Username and Password are those of the servers; without a user name the user is "default".
	Username, Password string
	// SentinelUsername and SentinelPassword are those of the Sentinels.
	SentinelUsername, SentinelPassword string
	// TLS, if not nil, is used for every connection, to Sentinels as well.
	TLS *tls.Config

	// Prefix begins every key; default "dpop:". Stores with one Prefix on one server are one memory.
	Prefix string
	// Secret, if set, keeps clients from choosing jtis whose keys all fall into one slot of a Cluster. At least 32
	// bytes, the same in all processes that share the memory.
	Secret []byte

	// Timeout is how long one FirstUse, and one connection attempt, may take; default 500 ms.
	Timeout time.Duration
	// CheckInterval is how often servers are looked at again over their open connections; default 1 s. What befalls a
	// server without breaking the connection, such as FLUSHALL, is noticed so late.
	CheckInterval time.Duration

	// Leeway and ClockSkew are those of the Verifier, at least; default 10 s and 5 s, as there. See replay.Floor.
	Leeway, ClockSkew time.Duration

	// InsecureSkipChecks takes a server as it is: that it evicts keys, is a replica, or has lost its memory goes unseen,
	// and each lets used proofs pass again. It is for servers that do not let INFO be read.
	InsecureSkipChecks bool

	// Logger gets a record when the floor rises because a server may have lost its memory. nil is silent.
	Logger *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

const (
	defaultPrefix        = "dpop:"
	defaultTimeout       = 500 * time.Millisecond
	defaultCheckInterval = time.Second
	minSecret            = 32
	maxTimeout           = time.Minute
)

// complete puts the defaults in and reports every mistake; connects says whether the addresses are used.
func (c *Config) complete(connects bool) (*replay.Floor, error) {
	var wrong []error
	mistake := func(format string, args ...any) {
		wrong = append(wrong, fmt.Errorf("redisstore: Config."+format, args...))
	}
	c.Addresses, c.Secret = slices.Clone(c.Addresses), slices.Clone(c.Secret)
	if connects {
		c.checkServers(mistake)
	} else if len(c.Addresses) > 0 || c.Cluster || c.SentinelMaster != "" || c.Infinispan || c.MinNodes != 0 || c.TLS != nil ||
		c.Username+c.Password+c.SentinelUsername+c.SentinelPassword != "" {
		mistake("Addresses, and what says how to connect to them, are for New: a client of yours knows them already")
	}
	c.Prefix = cmp.Or(c.Prefix, defaultPrefix)
	if strings.ContainsAny(c.Prefix, "{}") {
		mistake("Prefix is %q: leave braces out, which would put all keys into one slot of a Cluster", c.Prefix)
	}
	if len(c.Secret) > 0 && len(c.Secret) < minSecret {
		mistake("Secret has %d bytes: set at least %d random ones, or none", len(c.Secret), minSecret)
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		zero  time.Duration
	}{{"Timeout", &c.Timeout, defaultTimeout}, {"CheckInterval", &c.CheckInterval, defaultCheckInterval}} {
		if *d.value < 0 || *d.value > maxTimeout {
			mistake("%s is %v: set a positive duration of at most %v, or 0 for %v", d.name, *d.value, maxTimeout, d.zero)
		}
		*d.value = cmp.Or(*d.value, d.zero)
	}
	floor, err := replay.NewFloor(c.Leeway, c.ClockSkew)
	if err != nil {
		mistake("%w", err)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return floor, errors.Join(wrong...)
}

func (c *Config) checkServers(mistake func(format string, args ...any)) {
	kinds := 0
	for _, is := range []bool{c.Cluster, c.SentinelMaster != "", c.Infinispan} {
		if is {
			kinds++
		}
	}
	switch {
	case kinds > 1:
		mistake("Cluster, SentinelMaster and Infinispan exclude each other: set one of them")
	case len(c.Addresses) == 0:
		mistake("Addresses is empty: name the server, such as redis.internal:6379")
	case kinds == 0 && len(c.Addresses) > 1:
		mistake("Addresses names %d servers: set Cluster or SentinelMaster, or name one; two single servers do not share a memory",
			len(c.Addresses))
	}
	for i, a := range c.Addresses { // which are not shown: they may be URLs with a password
		if host, port, err := net.SplitHostPort(a); err != nil || !isHost(host) || !isPort(port) {
			mistake("Addresses[%d] is no address: give host and port alone, such as redis.internal:6379", i)
		}
	}
	if c.MinNodes < 0 || c.MinNodes > 0 && !c.Infinispan {
		mistake("MinNodes is %d: set how many nodes of an Infinispan cluster must be there, and leave it 0 for others", c.MinNodes)
	}
	if c.Password == "" && c.Username != "" {
		mistake("Password is empty, but Username is not: set both, or only Password")
	}
	if c.SentinelPassword == "" && c.SentinelUsername != "" || c.SentinelPassword != "" && c.SentinelMaster == "" {
		mistake("SentinelPassword belongs with SentinelMaster, and SentinelUsername with SentinelPassword")
	}
}

// schemes are those of ParseURL.
var schemes = map[string]struct {
	port                               string
	tls, cluster, sentinel, infinispan bool
}{
	"redis":           {port: "6379"},
	"rediss":          {port: "6379", tls: true},
	"redis+cluster":   {port: "6379", cluster: true},
	"rediss+cluster":  {port: "6379", cluster: true, tls: true},
	"redis+sentinel":  {port: "26379", sentinel: true},
	"rediss+sentinel": {port: "26379", sentinel: true, tls: true},
	"infinispan":      {port: "11222", infinispan: true},
	"infinispans":     {port: "11222", infinispan: true, tls: true},
}

// ParseURL returns a Config with Addresses and what says how to connect to them:
//
//	redis://host:6379              a single Redis or Valkey
//	redis://host,host,…            a Cluster, as is redis+cluster://host with one address for all
//	redis+sentinel://host,…/name   Sentinels, and the name of the primary
//	infinispan://host,…            Infinispan; clustered: infinispan://host,…?min-nodes=2
//
// rediss instead of redis, and infinispans, mean TLS. Ports default to 6379, 26379 and 11222. A user name or a password in
// the URL is an error, since URLs end up in logs and lists of processes: set Config.Username and Config.Password.
func ParseURL(url string) (Config, error) {
	// Nothing of it is shown in an error: what it should not have may be a password.
	wrong := func(format string, args ...any) (Config, error) {
		return Config{}, fmt.Errorf("redisstore: the URL "+format, args...)
	}
	scheme, rest, _ := strings.Cut(url, "://")
	s, known := schemes[scheme]
	minNodes := 0
	if hosts, n, ok := strings.Cut(rest, "?min-nodes="); ok && s.infinispan {
		if n, err := strconv.ParseUint(n, 10, 16); err == nil && n > 0 {
			rest, minNodes = hosts, int(n)
		}
	}
	hosts, path, hasPath := strings.Cut(rest, "/")
	switch {
	case strings.Contains(url, "@"):
		return wrong("has a user name or a password: leave it out, and set it as Username and Password")
	case !known:
		return wrong("is of no kind that is known: begin it with redis://, rediss://, redis+cluster://, redis+sentinel:// or infinispan://")
	case strings.ContainsAny(rest, "?#"):
		return wrong("has parameters: leave them out; only hosts and ports, and the ?min-nodes=2 of Infinispan, can be said in it")
	case s.sentinel && (path == "" || strings.Contains(path, "/")):
		return wrong("names no primary: put its name, and nothing else, after the hosts, as in %s://host/mymaster", scheme)
	case !s.sentinel && hasPath && path != "":
		return wrong("has a path: leave it out; proofs are kept in database 0")
	}
	c := Config{Cluster: s.cluster, Infinispan: s.infinispan, MinNodes: minNodes, SentinelMaster: path}
	if s.tls {
		c.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	for host := range strings.SplitSeq(hosts, ",") {
		address, ok := withPort(host, s.port)
		if !ok {
			return wrong("has something else than a host in place %d: give host or host:port, and an IPv6 address in brackets",
				len(c.Addresses)+1)
		}
		c.Addresses = append(c.Addresses, address)
	}
	if scheme == "redis" || scheme == "rediss" {
		c.Cluster = len(c.Addresses) > 1
	}
	return c, nil
}

// withPort returns host, which may have a port, with one. ok is false if it is neither.
func withPort(host, port string) (address string, ok bool) {
	if h, p, err := net.SplitHostPort(host); err == nil {
		host, port = h, p
	} else if h, inBrackets := strings.CutPrefix(host, "["); inBrackets { // an IPv6 address without a port
		if host, ok = strings.CutSuffix(h, "]"); !ok {
			return "", false
		}
	} else if strings.Contains(host, ":") {
		return "", false
	}
	return net.JoinHostPort(host, port), isHost(host) && isPort(port)
}

// isHost reports whether this can be a name or an address, and nothing that has a secret in it, such as "host,password=…".
func isHost(s string) bool {
	return s != "" && strings.Trim(s, "-.:%_0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}
