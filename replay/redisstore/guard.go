package redisstore

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/senderbound/senderbound/replay"
)

// An exchange sends commands to one server and returns a reply to each: nil, a string, a serverError, or an aggregate of
// those. It is an error if not all replies came.
type exchange func(ctx context.Context, commands ...[]string) ([]any, error)

// A refusal is why a server is not to be trusted with proofs. To try again is of no use.
type refusal struct{ error }

func (r refusal) Unwrap() error { return r.error }

func refuse(format string, args ...any) error { return refusal{fmt.Errorf(format, args...)} }

// A guard decides whether a server is one that remembers, and since when.
//
// On every server, or part of a Cluster, lies a mark: since when it has remembered without a gap, and under which
// replication id. A restart and a promotion change the id, an empty memory has no mark; then whoever looks first writes a
// new mark with the present time, and the floor rises to it at every process that looks. So a server must be looked at
// before proofs are recorded over a connection to it, and that is all: a memory is not lost while a connection lives, but by
// a command such as FLUSHALL, or behind a proxy that changes servers under open connections, and for those it is looked at
// again and again.
type guard struct {
	*replay.Floor
	cfg     *Config
	twoStep atomic.Bool // a server is older than Redis 7, which learned NX and GET in one command
	empty   sync.Map    // the replication ids of nodes that were seen to receive their first slots
}

// hello asks a server on a new connection who it is. clustered is whether its keys are spread over several.
func (g *guard) hello(ctx context.Context, send exchange) (clustered bool, err error) {
	info, err := login(ctx, send, "", g.cfg.Username, g.cfg.Password)
	if err != nil {
		return false, err
	}
	server, mode, role := text(info["server"]), text(info["mode"]), text(info["role"])
	switch {
	case g.cfg.Infinispan && server != "infinispan":
		return false, refuse("this is not Infinispan but %q: set Config.Infinispan for Infinispan only (infinispan://)", server)
	case !g.cfg.Infinispan && server == "infinispan":
		return false, refuse("this is Infinispan: set Config.Infinispan (infinispan://), and configure it as docs/replay.md says")
	case mode == "sentinel":
		return false, refuse("this is a Sentinel: set Config.SentinelMaster to the name of the primary (redis+sentinel://host/name)")
	case g.cfg.Infinispan:
		return mode == "cluster", nil
	case mode == "cluster" && !g.cfg.Cluster:
		return false, refuse("this is a node of a Redis Cluster: set Config.Cluster and name several nodes (redis://host,host)")
	case mode != "cluster" && g.cfg.Cluster:
		return false, refuse("this is not a node of a Redis Cluster: name only one address, without Config.Cluster (redis://host)")
	case role != "master":
		return false, errReplica
	}
	major, err := strconv.Atoi(strings.SplitN(text(info["version"]), ".", 2)[0])
	if err != nil {
		return false, refuse("the server has a version that is not understood, %q: use Redis 6 or later, or Valkey", text(info["version"]))
	}
	if major < 7 {
		g.twoStep.Store(true)
	}
	return mode == "cluster", nil
}

var errReplica = refuse("this is a replica, which forgets what its primary did not send: name the primary, or use Sentinel " +
	"(redis+sentinel://)")

// helloSentinel asks what should be a Sentinel whether it is one. What answers otherwise than Sentinels do is beyond what the
// client library is made for.
func (g *guard) helloSentinel(ctx context.Context, send exchange) error {
	info, err := login(ctx, send, "Sentinel", g.cfg.SentinelUsername, g.cfg.SentinelPassword)
	if err == nil && text(info["mode"]) != "sentinel" {
		err = refuse("this is not a Sentinel: name the Sentinels, or leave Config.SentinelMaster empty (redis://host)")
	}
	return err
}

// login sends HELLO, and returns what the server says of itself. fields is what the names of the fields in Config begin with.
func login(ctx context.Context, send exchange, fields, user, password string) (map[string]any, error) {
	command := []string{"HELLO", "3"}
	if password != "" {
		command = append(command, "AUTH", cmp.Or(user, "default"), password)
	}
	replies, err := send(ctx, command)
	if err != nil {
		return nil, err
	}
	if err, ok := replies[0].(serverError); ok {
		return nil, explainHello(newServerError(string(err), password), fields)
	}
	info, ok := replies[0].(map[string]any)
	if !ok {
		return nil, refuse("the server's reply to HELLO is not understood: use Redis 6 or later, Valkey or Infinispan, without a proxy " +
			"that speaks an older protocol")
	}
	return info, nil
}

func explainHello(err serverError, fields string) error {
	switch code, _, _ := strings.Cut(string(err), " "); {
	case code == "NOAUTH":
		return refuse("the server asks for a password: set Config.%[1]sPassword, and %[1]sUsername if it has users", fields)
	case code == "WRONGPASS":
		return refuse("the server refused the user name or the password: correct Config.%[1]sUsername and Config.%[1]sPassword (%[2]w)",
			fields, err)
	case strings.Contains(string(err), "without any password configured"):
		return refuse("the server has no password: leave Config.%sPassword empty, or give the server one (%w)", fields, err)
	case code == "NOPROTO", strings.Contains(string(err), "unknown command"):
		return refuse("the server does not know HELLO: use Redis 6 or later, Valkey or Infinispan (%w)", err)
	default: // it may be loading its data
		return err
	}
}

// look decides whether a server may be trusted with proofs, and raises the floor if it remembers less than was believed.
func (g *guard) look(ctx context.Context, send exchange, clustered bool) error {
	switch {
	case g.cfg.InsecureSkipChecks:
		return nil
	case g.cfg.Infinispan:
		return g.lookAtInfinispan(ctx, send, clustered)
	case clustered:
		return g.lookAtNode(ctx, send)
	}
	mark := g.cfg.Prefix + markName
	// The mark comes first: it is never taken for that of a server that has just taken over, whose id would come after it.
	replies, err := send(ctx, []string{"GET", mark}, infoMemory, infoReplication)
	if err != nil {
		return err
	}
	id, err := judge(replies[1], replies[2])
	if err != nil {
		return err
	}
	return g.lookAtMark(ctx, send, mark, replies[0], id)
}

// lookAtNode does it for a node of a Redis Cluster, whose mark must lie in one of its own slots.
func (g *guard) lookAtNode(ctx context.Context, send exchange) error {
	nodes, err := clusterNodes(ctx, send)
	if err != nil {
		return err
	}
	slot, receives, err := firstSlot(nodes)
	if err != nil {
		return err
	}
	mark := g.cfg.Prefix + markName
	if slot < slotCount {
		mark += tagOf(slot)
	}
	replies, err := send(ctx, []string{"GET", mark}, infoMemory, infoReplication)
	if err != nil {
		return err
	}
	id, err := judge(replies[1], replies[2])
	switch {
	case err != nil:
		return err
	case slot < slotCount:
		return g.lookAtMark(ctx, send, mark, replies[0], id)
	case receives:
		// It grants what the former owner of a slot sends it, but there is no place for its mark yet.
		if _, seen := g.empty.LoadOrStore(id, nil); !seen {
			g.raise(g.now())
		}
	}
	return nil // without slots it cannot grant
}

var (
	infoMemory      = []string{"INFO", "memory"}
	infoReplication = []string{"INFO", "replication"}
)

// judge refuses a server that does not keep what it is given, and returns its replication id.
func judge(memory, replication any) (id string, err error) {
	for _, reply := range []any{memory, replication} {
		if err, ok := reply.(serverError); ok {
			return "", refuseInfo(err)
		}
	}
	policy, info := parseInfo(memory)["maxmemory_policy"], parseInfo(replication)
	id = info["master_replid"]
	switch {
	case policy == "" || id == "":
		return "", refuse("the server does not tell its maxmemory-policy or its replication id (INFO memory, INFO replication): use Redis 6 " +
			"or later, or Valkey, or set Config.InsecureSkipChecks")
	case policy != "noeviction":
		return "", refuse("the server's maxmemory-policy is %q, which may drop used proofs to make room: set it to noeviction "+
			"(CONFIG SET maxmemory-policy noeviction)", policy)
	case info["role"] != "master":
		return "", errReplica
	}
	return id, nil
}

func refuseInfo(err serverError) error {
	return refuse("the server does not answer INFO: let its user (ACL) do that, so that eviction and loss of memory are seen, or set "+
		"Config.InsecureSkipChecks (%w)", err)
}

func (g *guard) lookAtInfinispan(ctx context.Context, send exchange, clustered bool) error {
	if err := g.lookAtNodes(ctx, send, clustered); err != nil {
		return err
	}
	mark := g.cfg.Prefix + markName
	replies, err := send(ctx, []string{"GET", mark})
	if err != nil {
		return err
	}
	return g.lookAtMark(ctx, send, mark, replies[0], "")
}

// clusterNodes returns what a server says of the nodes of its cluster.
func clusterNodes(ctx context.Context, send exchange) (string, error) {
	replies, err := send(ctx, []string{"CLUSTER", "NODES"})
	if err != nil {
		return "", err
	}
	if err, ok := replies[0].(serverError); ok {
		return "", refuse("the server does not answer CLUSTER NODES: let its user do that (ACL; in Infinispan the permission ADMIN), and "+
			"in Infinispan use a cache that is distributed (%w)", err)
	}
	return text(replies[0]), nil
}

// lookAtNodes counts the nodes of an Infinispan cluster, which is all that can be seen of a split.
func (g *guard) lookAtNodes(ctx context.Context, send exchange, clustered bool) error {
	if !clustered {
		if g.cfg.MinNodes > 1 {
			return refuse("this Infinispan is not clustered, but Config.MinNodes is %d: cluster it, or set MinNodes to 0", g.cfg.MinNodes)
		}
		return nil
	}
	if g.cfg.MinNodes == 0 {
		return refuse("this Infinispan is clustered: set Config.MinNodes to more than half of its nodes, so that a part that was " +
			"split off is not believed")
	}
	nodes, err := clusterNodes(ctx, send)
	if err != nil {
		return err
	}
	if n := countNodes(nodes); n < g.cfg.MinNodes {
		return fmt.Errorf("this Infinispan has %d nodes, fewer than Config.MinNodes, %d", n, g.cfg.MinNodes)
	}
	return nil
}

// markName and keyName keep marks and proofs apart, whatever the keys.
const (
	markName = "epoch"
	keyName  = "jti:"
)

// A mark says since when a server has remembered without a gap, under a replication id.
type mark struct {
	since time.Time
	id    string
}

func (m mark) String() string { return strconv.FormatInt(m.since.UnixMilli(), 10) + "/" + m.id }

func parseMark(s string) (mark, bool) {
	millis, id, ok := strings.Cut(s, "/")
	n, err := strconv.ParseInt(millis, 10, 64)
	return mark{time.UnixMilli(n), id}, ok && err == nil && n > 0
}

// lookAtMark takes the mark that was read under key, or writes a new one where it is missing or of another id.
func (g *guard) lookAtMark(ctx context.Context, send exchange, key string, read any, id string) error {
	switch read := read.(type) {
	case serverError:
		return explainMark(key, read)
	case string:
		// A mark from the future is one of a clock that is wrong; a new one is as good as any.
		m, ok := parseMark(read)
		if ok && m.id == id && m.since.Before(g.cfg.Now().Add(2*g.skew())) {
			g.raise(m.since)
			return nil
		}
	}
	fresh := mark{g.now(), id}
	replies, err := send(ctx, []string{"SET", key, fresh.String()})
	if err != nil {
		return err
	}
	if err, ok := replies[0].(serverError); ok {
		return explainMark(key, err)
	}
	g.raise(fresh.since)
	return nil
}

func explainMark(key string, err serverError) error {
	switch code, _, _ := strings.Cut(string(err), " "); code {
	case "NOPERM":
		return refuse("the server's user may not read and write the key %q: let it (ACL), as it says since when the server remembers (%w)",
			key, err)
	case "WRONGTYPE":
		return refuse("the key %q is used for something else: leave the keys under Config.Prefix to this store, or set another one (%w)",
			key, err)
	default: // it may be loading its data, or be full
		return err
	}
}

// now returns the time, rounded up to what a mark can say, so that a loss is never dated too early.
func (g *guard) now() time.Time {
	return g.cfg.Now().Add(time.Millisecond - 1).Truncate(time.Millisecond)
}

func (g *guard) skew() time.Duration {
	_, skew, _ := g.Allowance()
	return skew
}

// raise raises the floor, and says so if that is of consequence.
func (g *guard) raise(lost time.Time) {
	before := g.Ready()
	g.Raise(lost)
	if ready := g.Ready(); ready.After(before) && ready.After(g.cfg.Now()) {
		g.cfg.Logger.Warn("redisstore: the server has begun to remember only now, so proofs are refused until none could have been used before",
			"until", ready)
	}
}

// parseInfo returns the fields of a reply to INFO.
func parseInfo(reply any) map[string]string {
	fields := make(map[string]string)
	for line := range strings.Lines(text(reply)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			fields[name] = value
		}
	}
	return fields
}

// countNodes returns how many nodes CLUSTER NODES tells of, but for those that the one that was asked cannot reach.
func countNodes(nodes string) int {
	n := 0
	for line := range strings.Lines(nodes) {
		if fields := strings.Fields(line); len(fields) >= 8 && fields[7] != "disconnected" {
			n++
		}
	}
	return n
}

// firstSlot returns the lowest slot of the node that answered CLUSTER NODES, slotCount if it has none, and whether it is
// about to receive one.
func firstSlot(nodes string) (slot int, receives bool, err error) {
	for line := range strings.Lines(nodes) {
		fields := strings.Fields(line)
		if len(fields) < 8 || !slices.Contains(strings.Split(fields[2], ","), "myself") {
			continue
		}
		slot = slotCount
		for _, slots := range fields[8:] {
			receives = receives || strings.Contains(slots, "-<-")
			first, _, _ := strings.Cut(slots, "-")
			if n, err := strconv.Atoi(first); err == nil { // a slot that moves stands in brackets
				slot = min(slot, n)
			}
		}
		return slot, receives, nil
	}
	return 0, false, refuse("the server's reply to CLUSTER NODES is not understood: use Redis 6 or later, or Valkey, without a proxy")
}

// tagOf returns a hash tag that puts a key into this slot. Other releases must find the same one.
func tagOf(slot int) string {
	if tag, ok := tags.Load(slot); ok {
		return tag.(string)
	}
	for i := 0; ; i++ {
		if tag := strconv.Itoa(i); slotOf(tag) == slot {
			tag = "{" + tag + "}"
			tags.Store(slot, tag)
			return tag
		}
	}
}

var tags sync.Map // what tagOf has found, which takes a millisecond

const slotCount = 16384

// slotOf returns the slot of a key without a hash tag: CRC16, as XMODEM has it.
func slotOf(key string) int {
	var crc uint16
	for _, b := range []byte(key) {
		crc ^= uint16(b) << 8
		for range 8 {
			carry := crc&0x8000 != 0
			crc <<= 1
			if carry {
				crc ^= 0x1021
			}
		}
	}
	return int(crc) % slotCount
}

// text returns a reply that is a text, or "".
func text(reply any) string {
	s, _ := reply.(string)
	return s
}
