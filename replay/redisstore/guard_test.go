package redisstore_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/replay/redisstore"
)

// hello returns a reply to HELLO 3, with changes.
func hello(changes ...string) map[string]any {
	reply := map[string]any{
		"server": "redis", "version": "7.2.4", "proto": "3", "id": "5", "mode": "standalone", "role": "master", "modules": []any{},
	}
	for i := 0; i < len(changes); i += 2 {
		reply[changes[i]] = changes[i+1]
	}
	return reply
}

func guardFor(t *testing.T, cfg redisstore.Config) *redisstore.Guard {
	t.Helper()
	cfg.Addresses = []string{"redis.internal:6379"}
	guard, err := redisstore.NewGuard(cfg)
	require.NoError(t, err)
	return guard
}

// What a server answers that does not know HELLO, and what is said of it.
const (
	unknownHello = redisstore.ServerError("ERR unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `default`, `hunter2`, ")
	noHello      = "the server does not know HELLO: use Redis 6 or later, Valkey or Infinispan (ERR unknown command)"
)

// TestHello: what a server says of itself decides whether it is what Config says.
func TestHello(t *testing.T) {
	const replica = "this is a replica, which forgets what its primary did not send: name the primary, or use Sentinel (redis+sentinel://)"
	const version = ": use Redis 6 or later, or Valkey"
	cluster, infinispan := redisstore.Config{Cluster: true}, redisstore.Config{Infinispan: true, MinNodes: 2}
	withPassword := redisstore.Config{Password: "hunter2"}
	for name, tt := range map[string]struct {
		cfg       redisstore.Config
		reply     any
		clustered bool
		twoStep   bool
		want      string // of the error
	}{
		"Redis 7":                   {reply: hello()},
		"Redis 6":                   {reply: hello("version", "6.2.14"), twoStep: true},
		"Redis 8":                   {reply: hello("version", "8.0.0")},
		"an unreleased Redis":       {reply: hello("version", "255.255.255")},
		"Valkey":                    {reply: hello("server", "valkey", "version", "8.1.3")},
		"a Cluster":                 {cfg: cluster, reply: hello("mode", "cluster"), clustered: true},
		"a primary behind Sentinel": {cfg: redisstore.Config{SentinelMaster: "m"}, reply: hello()},
		"Infinispan":                {cfg: infinispan, reply: hello("server", "infinispan", "version", "16.0.1.Final", "mode", "standalone")},
		"Infinispan, clustered":     {cfg: infinispan, reply: hello("server", "infinispan", "mode", "cluster", "role", ""), clustered: true},

		"not Infinispan": {cfg: infinispan, reply: hello(),
			want: `this is not Infinispan but "redis": set Config.Infinispan for Infinispan only (infinispan://)`},
		"Infinispan by surprise": {reply: hello("server", "infinispan"),
			want: "this is Infinispan: set Config.Infinispan (infinispan://), and configure it as docs/replay.md says"},
		"Infinispan for a Cluster": {cfg: cluster, reply: hello("server", "infinispan", "mode", "cluster"),
			want: "this is Infinispan: set Config.Infinispan (infinispan://), and configure it as docs/replay.md says"},
		"a Sentinel": {reply: hello("mode", "sentinel", "role", ""),
			want: "this is a Sentinel: set Config.SentinelMaster to the name of the primary (redis+sentinel://host/name)"},
		"a Cluster by surprise": {reply: hello("mode", "cluster"),
			want: "this is a node of a Redis Cluster: set Config.Cluster and name several nodes (redis://host,host)"},
		"not a Cluster": {cfg: cluster, reply: hello(),
			want: "this is not a node of a Redis Cluster: name only one address, without Config.Cluster (redis://host)"},
		"a replica":              {reply: hello("role", "replica"), want: replica},
		"a replica of a Cluster": {cfg: cluster, reply: hello("mode", "cluster", "role", "replica"), want: replica},
		"no version":             {reply: hello("version", ""), want: `the server has a version that is not understood, ""` + version},
		"a word for a version":   {reply: hello("version", "v7"), want: `the server has a version that is not understood, "v7"` + version},
		"a list, as RESP2 has it": {reply: []any{"server", "redis"}, want: "the server's reply to HELLO is not understood: use Redis 6 or later, " +
			"Valkey or Infinispan, without a proxy that speaks an older protocol"},
		"nothing": {reply: nil, want: "the server's reply to HELLO is not understood: use Redis 6 or later, Valkey or Infinispan, without a " +
			"proxy that speaks an older protocol"},

		"no password given": {reply: redisstore.ServerError("NOAUTH HELLO must be called with the client already authenticated"),
			want: "the server asks for a password: set Config.Password, and Username if it has users"},
		"a wrong password": {cfg: withPassword, reply: redisstore.ServerError("WRONGPASS invalid username-password pair or user is disabled."),
			want: "the server refused the user name or the password: correct Config.Username and Config.Password (WRONGPASS invalid " +
				"username-password pair or user is disabled.)"},
		"no password needed": {cfg: withPassword, reply: redisstore.ServerError("ERR AUTH <password> called without any password configured " +
			"for the default user. Are you sure your configuration is correct?"),
			want: "the server has no password: leave Config.Password empty, or give the server one (ERR AUTH <password> called without any " +
				"password configured for the default user. Are you sure your configuration is correct?)"},
		"Redis 5":       {cfg: withPassword, reply: unknownHello, want: noHello},
		"HELLO renamed": {cfg: withPassword, reply: redisstore.ServerError(strings.ReplaceAll(string(unknownHello), "`", "'")), want: noHello},
		"RESP2 only": {reply: redisstore.ServerError("NOPROTO unsupported protocol version"),
			want: "the server does not know HELLO: use Redis 6 or later, Valkey or Infinispan (NOPROTO unsupported protocol version)"},
		"what repeats the password": {cfg: withPassword, reply: redisstore.ServerError("ERR the password hunter2 is too short"), want: "ERR"},
		"loading": {reply: redisstore.ServerError("LOADING Redis is loading the dataset in memory"),
			want: "LOADING Redis is loading the dataset in memory"},
	} {
		guard := guardFor(t, tt.cfg)
		var sent [][]string
		clustered, err := guard.Hello(func(_ context.Context, commands ...[]string) ([]any, error) {
			sent = append(sent, commands...)
			return []any{tt.reply}, nil
		})
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || err.Error() != tt.want) {
			t.Errorf("%s: got the error %v, want %q", name, err, tt.want)
		}
		if mentions(err, "hunter2") {
			t.Errorf("%s: the error shows the password: %v", name, err)
		}
		if clustered != tt.clustered || guard.TwoStep() != tt.twoStep {
			t.Errorf("%s: clustered is %t and two steps %t, want %t and %t", name, clustered, guard.TwoStep(), tt.clustered, tt.twoStep)
		}
		want := []string{"HELLO", "3"}
		if tt.cfg.Password != "" {
			want = append(want, "AUTH", "default", "hunter2")
		}
		require.Equal(t, [][]string{want}, sent, name)
	}
	guard := guardFor(t, redisstore.Config{Username: "app", Password: "hunter2"})
	_, err := guard.Hello(func(_ context.Context, commands ...[]string) ([]any, error) {
		require.Equal(t, [][]string{{"HELLO", "3", "AUTH", "app", "hunter2"}}, commands)
		return nil, errReset
	})
	require.ErrorIs(t, err, errReset)
}

// TestHelloSentinel: what is not a Sentinel is refused before the client asks it what only Sentinels know.
func TestHelloSentinel(t *testing.T) {
	const not = "this is not a Sentinel: name the Sentinels, or leave Config.SentinelMaster empty (redis://host)"
	for name, tt := range map[string]struct {
		reply any
		want  string
	}{
		"a Sentinel":   {hello("mode", "sentinel"), ""},
		"a server":     {hello(), not},
		"a replica":    {hello("role", "replica"), not},
		"a Cluster":    {hello("mode", "cluster"), not},
		"says nothing": {map[string]any{}, not},
		"no password": {redisstore.ServerError("NOAUTH HELLO must be called"),
			"the server asks for a password: set Config.SentinelPassword, and SentinelUsername if it has users"},
		"unknown HELLO": {unknownHello, noHello},
	} {
		guard := guardFor(t, redisstore.Config{SentinelMaster: "m", SentinelPassword: "hunter2", Password: "another"})
		err := guard.HelloSentinel(func(_ context.Context, commands ...[]string) ([]any, error) {
			require.Equal(t, [][]string{{"HELLO", "3", "AUTH", "default", "hunter2"}}, commands)
			return []any{tt.reply}, nil
		})
		if got := fmt.Sprint(err); got != tt.want && (err != nil || tt.want != "") {
			t.Errorf("%s: got %s, want %q", name, got, tt.want)
		}
		if mentions(err, "hunter2", "another") {
			t.Errorf("%s: the error shows a password: %v", name, err)
		}
	}
}

// TestSlot compares with known values of CRC16, as XMODEM has it, and tags with the rule of Redis Cluster.
func TestSlot(t *testing.T) {
	for key, want := range map[string]int{ // of CLUSTER KEYSLOT
		"123456789": 12739, "": 0, "foo": 12182, "somekey": 11058, "dpop:epoch": 2079,
	} {
		if got := redisstore.SlotOf(key); got != want {
			t.Errorf("the slot of %q is %d, want %d", key, got, want)
		}
	}
	for slot, want := range map[int]string{0: "{3560}", 1: "{22179}", 8430: "{21349}", 13907: "{0}", 16383: "{39296}"} { // others read the same mark
		if got := redisstore.TagOf(slot); got != want {
			t.Errorf("the tag of slot %d is %s, want %s", slot, got, want)
		}
	}
	for range 20 {
		slot := rand.IntN(redisstore.SlotCount)
		for range 2 {
			tag := redisstore.TagOf(slot)
			if got := redisstore.SlotOf(strings.Trim(tag, "{}")); got != slot || tag[0] != '{' || tag[len(tag)-1] != '}' {
				t.Errorf("the tag of slot %d is %s, whose slot is %d", slot, tag, got)
			}
		}
	}
}

const (
	aNode      = "07c37dfeb235213a872192d90877d0cd55635b91"
	otherNodes = aNode + " 127.0.0.1:30004@31004,host4 slave e7d1eecce10fd6bb5eb35b9f99a514335d9ba9ca 0 1426238317239 4 connected\n" +
		"67ed2db8d677e59ec4a4cefb06858cf2a1a89fa1 127.0.0.1:30002@31002,host2 master - 0 1426238316232 2 connected 5461-10922\n" +
		"6ec23923021cf3ffec47632106199cb7f496ce01 :0@0 master,fail,noaddr - 1426238317239 0 7 disconnected\n" +
		"824fe116063bc5fcf9f4ffd895bc17aee7731ac3 127.0.0.1:30006@31006,host6 slave,fail? 292f8b365bb7edb5e285caf0b7e6ddc7265d2f4f 0 0 6 connected\n"
)

// TestFirstSlot reads what servers answer to CLUSTER NODES.
func TestFirstSlot(t *testing.T) {
	const me = aNode + " 127.0.0.1:30001@31001,host1 myself,master - 0 0 1 connected"
	for name, tt := range map[string]struct {
		nodes    string
		want     int
		receives bool
		refused  bool
	}{
		"a range":                  {nodes: otherNodes + me + " 0-5460\n", want: 0},
		"a range, in front":        {nodes: me + " 10923-16383\n" + otherNodes, want: 10923},
		"single slots":             {nodes: otherNodes + me + " 7 5 9\n", want: 5},
		"single slots and ranges":  {nodes: otherNodes + me + " 100-200 7 9-11\n", want: 7},
		"the last slot":            {nodes: me + " 16383", want: 16383},
		"one that goes":            {nodes: otherNodes + me + " 5461-10922 [5461->-" + aNode + "]\n", want: 5461},
		"one that comes":           {nodes: otherNodes + me + " 5461-10922 [93-<-" + aNode + "]\n", want: 5461, receives: true},
		"none":                     {nodes: otherNodes + me + "\n", want: redisstore.SlotCount},
		"none, but one that comes": {nodes: otherNodes + me + " [93-<-" + aNode + "]\n", want: redisstore.SlotCount, receives: true},
		"IPv6":                     {nodes: aNode + " 2001:db8::1:6379@16379 myself,master - 0 0 1 connected 3-4", want: 3},
		"no address yet":           {nodes: aNode + " :17399@27399 myself,master - 0 0 0 connected 0-2 7 9-11\n", want: 0},
		"failing":                  {nodes: aNode + " :1@2 myself,master,fail? - 0 0 0 connected 12\n", want: 12},
		"as a verbatim text":       {nodes: "txt:" + me + " 8\n", want: 8},
		"with carriage returns":    {nodes: strings.ReplaceAll(otherNodes+me+" 44\n", "\n", "\r\n"), want: 44},
		"beyond all slots":         {nodes: me + " 16384-99999", want: redisstore.SlotCount},

		"nothing":            {refused: true},
		"others only":        {nodes: otherNodes, refused: true},
		"too short":          {nodes: aNode + " :1@2 myself,master - 0 0 0\n", refused: true},
		"a host named so":    {nodes: aNode + " myself:1@2 master - 0 0 0 connected 0-5\n", refused: true},
		"a flag like it":     {nodes: aNode + " h:1@2 notmyself,master - 0 0 0 connected 0-5\n", refused: true},
		"something else":     {nodes: "<html>", refused: true},
		"an empty line only": {nodes: "\n\n", refused: true},
	} {
		slot, receives, err := redisstore.FirstSlot(tt.nodes)
		if refused := (redisstore.Refusal{}); tt.refused != errors.As(err, &refused) {
			t.Errorf("%s: got the error %v, want a refusal: %t", name, err, tt.refused)
		}
		if !tt.refused && (slot != tt.want || receives != tt.receives) {
			t.Errorf("%s: got slot %d, receives %t; want %d, %t", name, slot, receives, tt.want, tt.receives)
		}
	}
}

// TestNodesOfInfinispan counts what Infinispan answers to CLUSTER NODES, and compares with MinNodes.
func TestNodesOfInfinispan(t *testing.T) {
	const a = "node-1 10.0.0.1:11222@43122 myself,master - 0 1764000000 5 connected 0-8191\n"
	const b = "node-2 10.0.0.2:11222@43122 master - 0 1764000000 5 connected 8192-16383\n"
	const noPort = "node-3 :0@0 noaddr,master - 0 1764000000 5 connected \n"
	const lost = "node-4 :0@0 noaddr,fail?,master - 0 1764000000 5 disconnected 3-4\n"
	for nodes, want := range map[string]int{"": 0, a: 1, a + b: 2, a + b + noPort: 3, a + lost: 1, "\n" + a + "\n\n" + b: 2, "ERR": 0} {
		if got := redisstore.CountNodes(nodes); got != want {
			t.Errorf("%q has %d nodes, want %d", nodes, got, want)
		}
	}
	for name, tt := range map[string]struct {
		min       int
		clustered bool
		nodes     any
		want      string
	}{
		"alone":               {0, false, nil, ""},
		"alone, and it is so": {1, false, nil, ""},
		"alone, but not meant": {2, false, nil,
			"this Infinispan is not clustered, but Config.MinNodes is 2: cluster it, or set MinNodes to 0"},
		"all there":     {2, true, a + b, ""},
		"more":          {2, true, a + b + noPort, ""},
		"one is missed": {2, true, a, "this Infinispan has 1 nodes, fewer than Config.MinNodes, 2"},
		"one is lost":   {2, true, a + lost, "this Infinispan has 1 nodes, fewer than Config.MinNodes, 2"},
		"no number": {0, true, a + b, "this Infinispan is clustered: set Config.MinNodes to more than half of its nodes, so that a part that was " +
			"split off is not believed"},
		"no answer": {2, true, redisstore.ServerError("ERR This instance has cluster support disabled"), "the server does not answer CLUSTER NODES: let its " +
			"user do that (ACL; in Infinispan the permission ADMIN), and in Infinispan use a cache that is distributed (ERR This instance has " +
			"cluster support disabled)"},
	} {
		guard := guardFor(t, redisstore.Config{Infinispan: true, MinNodes: tt.min})
		marks := map[string]string{}
		err := guard.Look(func(_ context.Context, commands ...[]string) ([]any, error) {
			require.Len(t, commands, 1)
			switch c := commands[0]; c[0] {
			case "CLUSTER":
				return []any{tt.nodes}, nil
			case "SET":
				marks[c[1]] = c[2]
			}
			return []any{nil}, nil
		}, tt.clustered)
		if got := fmt.Sprint(err); got != tt.want && (err != nil || tt.want != "") {
			t.Errorf("%s: got %s, want %q", name, got, tt.want)
		}
		if mark := marks[markKey]; (err == nil) != strings.HasSuffix(mark, "/") || err == nil && time.Until(guard.Ready()) < allowance {
			t.Errorf("%s: the mark is %q, and new proofs pass in %v", name, mark, time.Until(guard.Ready()))
		}
	}
}

// TestClusterNode: each node of a Cluster bears a mark in the lowest of its own slots.
func TestClusterNode(t *testing.T) {
	const me = aNode + " 127.0.0.1:30001@31001 myself,master - 0 0 1 connected"
	type node struct {
		nodes, id string
		marks     map[string]string
	}
	exchange := func(n *node) func(context.Context, ...[]string) ([]any, error) {
		return func(_ context.Context, commands ...[]string) (replies []any, _ error) {
			for _, c := range commands {
				var reply any
				switch strings.Join(c[:2], " ") {
				case "CLUSTER NODES":
					reply = n.nodes
				case "INFO memory":
					reply = "# Memory\r\nmaxmemory_policy:noeviction\r\n"
				case "INFO replication":
					reply = "# Replication\r\nrole:master\r\nmaster_replid:" + n.id + "\r\n"
				default:
					_, tag, _ := strings.Cut(c[1], "{")
					slot := redisstore.SlotOf(strings.TrimSuffix(tag, "}"))
					own, _, err := redisstore.FirstSlot(n.nodes)
					switch mark, ok := n.marks[c[1]]; {
					case err != nil || own != slot:
						reply = redisstore.ServerError("MOVED 1 127.0.0.1:30002")
					case c[0] == "SET":
						n.marks[c[1]] = c[2]
						reply = "OK"
					case ok:
						reply = mark
					}
				}
				replies = append(replies, reply)
			}
			return replies, nil
		}
	}
	synctest.Test(t, func(t *testing.T) {
		guard := guardFor(t, redisstore.Config{Cluster: true})
		n := &node{me + " 100-200\n", "first", map[string]string{}}
		look := func() (rose bool) {
			before := guard.Ready()
			require.NoError(t, guard.Look(exchange(n), true))
			return guard.Ready().After(before)
		}
		for _, step := range []struct {
			does string
			f    func()
			rose bool
		}{
			{"is seen for the first time", func() {}, true},
			{"is seen again", func() {}, false},
			{"receives a lower slot, and has its mark elsewhere then", func() { n.nodes = me + " 99-200\n" }, true},
			{"gives it back", func() { n.nodes = me + " 100-200\n" }, false},
			{"restarts with its memory", func() { n.id = "second" }, true},
			{"loses its mark", func() { clear(n.marks) }, true},
			{"gives away all of its slots", func() { n.nodes = me + "\n" }, false},
			{"is to receive one", func() { n.nodes = me + " [5-<-" + aNode + "]\n" }, true},
			{"is still to receive it", func() {}, false},
			{"restarts meanwhile, and forgets what it granted", func() { n.id = "third" }, true},
			{"has received it", func() { n.nodes = me + " 5\n" }, true},
			{"has it still", func() {}, false},
		} {
			time.Sleep(time.Minute)
			step.f()
			if rose := look(); rose != step.rose {
				t.Errorf("the node %s: the floor rises is %t, want %t", step.does, rose, step.rose)
			}
		}
		n.nodes = "?"
		if err := guard.Look(exchange(n), true); err == nil {
			t.Error("a node whose answer to CLUSTER NODES is not understood is believed")
		}
	})
}
