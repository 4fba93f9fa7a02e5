package redisstore_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/senderbound/senderbound/replay/redisstore"
)

func TestReadReply(t *testing.T) {
	long := strings.Repeat("x", redisstore.MaxText)
	for name, tt := range map[string]struct {
		raw  string
		want any
	}{
		"a status":         {"+OK\r\n", "OK"},
		"an empty status":  {"+\r\n", ""},
		"an error":         {"-NOAUTH Authentication required.\r\n", redisstore.ServerError("NOAUTH Authentication required.")},
		"a text":           {"$5\r\nhello\r\n", "hello"},
		"an empty text":    {"$0\r\n\r\n", ""},
		"a text of lines":  {"$4\r\n\r\n\r\n\r\n", "\r\n\r\n"},
		"the longest text": {fmt.Sprintf("$%d\r\n%s\r\n", len(long), long), long},
		"null of RESP2":    {"$-1\r\n", nil},
		"a null list":      {"*-1\r\n", nil},
		"null of RESP3":    {"_\r\n", nil},
		"a number":         {":-42\r\n", "-42"},
		"a fraction":       {",1.5\r\n", "1.5"},
		"true":             {"#t\r\n", "t"},
		"a large number":   {"(12345678901234567890\r\n", "12345678901234567890"},
		"a long error":     {"!11\r\nERR no good\r\n", redisstore.ServerError("ERR no good")},
		"a verbatim text":  {"=9\r\ntxt:hello\r\n", "hello"},
		"an empty one":     {"=4\r\ntxt:\r\n", ""},
		"too short a one":  {"=3\r\ntxt\r\n", "txt"},
		"a list":           {"*3\r\n+a\r\n*1\r\n:1\r\n_\r\n", []any{"a", []any{"1"}, nil}},
		"an empty list":    {"*0\r\n", []any{}},
		"a set":            {"~1\r\n+a\r\n", []any{"a"}},
		"a push":           {">1\r\n+a\r\n", []any{"a"}},
		"a map":            {"%2\r\n+a\r\n:1\r\n$1\r\nb\r\n%0\r\n", map[string]any{"a": "1", "b": map[string]any{}}},
		"an error inside":  {"*1\r\n-ERR x\r\n", []any{redisstore.ServerError("ERR x")}},
		"the deepest":      {strings.Repeat("*1\r\n", redisstore.MaxDepth-1) + "+a\r\n", nested(redisstore.MaxDepth-1, "a")},
		"what follows":     {"+a\r\n+b\r\n", "a"},
	} {
		got, err := redisstore.ReadReply(strings.NewReader(tt.raw))
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: got (%.60v, %v), want %.60v", name, got, err, tt.want)
		}
	}
}

func nested(depth int, inner any) any {
	for range depth {
		inner = []any{inner}
	}
	return inner
}

// TestReadReplyRefuses what is no RESP, what is larger than anything that is asked for, and what ends too early.
func TestReadReplyRefuses(t *testing.T) {
	const resp = "the reply is not RESP: is there a Redis or Infinispan at this address, and is TLS set as it has it?"
	for name, tt := range map[string]struct{ raw, want string }{
		"nothing":                         {"", "EOF"},
		"half a line":                     {"+OK", "EOF"},
		"no carriage return":              {"+OK\n", resp},
		"a carriage return too early":     {"+OK\r \n", resp},
		"an empty line":                   {"\r\n", resp},
		"HTTP":                            {"HTTP/1.1 400 Bad Request\r\n\r\n", resp},
		"an alert of TLS":                 {"\x15\x03\x03\x00\x02\x02\x28\n", resp},
		"a line without an end":           {"+" + strings.Repeat("a", 5000), resp},
		"attributes":                      {"|1\r\n+a\r\n+b\r\n+c\r\n", resp},
		"a length that is none":           {"$x\r\n", resp},
		"no length":                       {"$\r\n", resp},
		"a negative length":               {"$-2\r\n", resp},
		"a negative list":                 {"*-2\r\n", resp},
		"a length beyond all numbers":     {"$99999999999999999999\r\n", resp},
		"a text that is too long":         {fmt.Sprintf("$%d\r\n", redisstore.MaxText+1), resp},
		"a list that is too long":         {fmt.Sprintf("*%d\r\n", redisstore.MaxItems+1), resp},
		"a map that is too long":          {fmt.Sprintf("%%%d\r\n", redisstore.MaxItems+1), resp},
		"too deep":                        {strings.Repeat("*1\r\n", redisstore.MaxDepth) + "+a\r\n", resp},
		"a map that is too deep":          {strings.Repeat("%1\r\n+a\r\n", redisstore.MaxDepth) + "+a\r\n", resp},
		"a text that ends early":          {"$5\r\nhel", "EOF"},
		"a text that is longer":           {"$5\r\nhello!\r\n", resp},
		"a list that ends early":          {"*2\r\n+a\r\n", "EOF"},
		"a map that ends early":           {"%1\r\n+a\r\n", "EOF"},
		"a map with a list for a key":     {"%1\r\n*0\r\n+a\r\n", resp},
		"a map with null for a key":       {"%1\r\n_\r\n+a\r\n", resp},
		"a text in pieces, as streams do": {"$?\r\n;4\r\nabcd\r\n;0\r\n", resp},
	} {
		got, err := redisstore.ReadReply(strings.NewReader(tt.raw))
		if err == nil || err.Error() != tt.want {
			t.Errorf("%s: got (%.60v, %v), want %q", name, got, err, tt.want)
		}
	}
}

// TestReadReplyMemory: a server that announces much and sends nothing takes no memory, and one that sends without end is not
// listened to for long.
func TestReadReplyMemory(t *testing.T) {
	announced := fmt.Sprintf("$%d\r\n", redisstore.MaxText)
	deep := strings.Repeat(fmt.Sprintf("*%d\r\n", redisstore.MaxItems), redisstore.MaxDepth-1) + announced
	for name, tt := range map[string]struct {
		raw   string
		limit uint64
	}{"a text": {announced, 16 << 10}, "lists of lists": {deep, 256 << 10}} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range 10 {
			_, err := redisstore.ReadReply(strings.NewReader(tt.raw))
			require.Error(t, err)
		}
		runtime.ReadMemStats(&after)
		if took := (after.TotalAlloc - before.TotalAlloc) / 10; took > tt.limit {
			t.Errorf("%s that is announced takes %d bytes before it comes, want at most %d", name, took, tt.limit)
		}
	}
	client, server := net.Pipe()
	defer client.Close()
	sent := make(chan int)
	go func() {
		// A list of a thousand lists of a thousand texts, together a gigabyte.
		texts := strings.Repeat("$1000\r\n"+strings.Repeat("x", 1000)+"\r\n", 1000)
		n, err := io.WriteString(server, "*1000\r\n")
		for list := 0; list < 1000 && err == nil; list++ {
			var more int
			more, err = io.WriteString(server, "*1000\r\n"+texts)
			n += more
		}
		sent <- n
	}()
	go io.Copy(io.Discard, server)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := redisstore.Over(client)(ctx, []string{"INFO"})
	require.Error(t, err)
	client.Close()
	if n := <-sent; n > 5<<20 {
		t.Errorf("%d bytes of a reply without an end were read", n)
	}
}

// TestOver sends several commands at once, and gives up when ctx does.
func TestOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer client.Close()
		defer server.Close()
		send := redisstore.Over(client)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		go func() {
			const want = "*2\r\n$3\r\nGET\r\n$4\r\na\r\nb\r\n*1\r\n$0\r\n\r\n"
			got := make([]byte, len(want))
			_, err := io.ReadFull(server, got)
			if err != nil || string(got) != want {
				t.Errorf("got the commands %q (%v), want %q", got, err, want)
			}
			_, _ = io.WriteString(server, "$1\r\nx\r\n-ERR y\r\n")
		}()
		replies, err := send(ctx, []string{"GET", "a\r\nb"}, []string{""})
		require.NoError(t, err)
		require.Equal(t, []any{"x", redisstore.ServerError("ERR y")}, replies)
		go io.Copy(io.Discard, server)
		start := time.Now()
		if _, err := send(ctx, []string{"GET", "a"}); err == nil || time.Since(start) != time.Second {
			t.Errorf("without a reply got %v after %v, want an error when ctx ends", err, time.Since(start))
		}
	})
}

// TestServerErrors: what may be shown of what a server says.
func TestServerErrors(t *testing.T) {
	for text, want := range map[string]string{
		"OOM command not allowed when used memory > 'maxmemory'.":                      "OOM command not allowed when used memory >",
		"READONLY You can't write against a read only replica.":                        "READONLY You can't write against a read only replica.",
		"MISCONF Redis is configured to save RDB snapshots, but it's currently unable": "MISCONF Redis is configured to save RDB snapshots, but it's currently unable",
		"ERR unknown command 'SET', with args beginning with: 'key' 'nonce' ":          "ERR unknown command",
		"ERR unknown command `SET`, with args beginning with: `key`, ":                 "ERR unknown command",
		"ERR Unable to acquire lock for key WrappedByteArray[6b6579]":                  "ERR Unable to acquire lock for key WrappedByteArray",
		"NOPERM User app has no permissions to access the 'key' key":                   "NOPERM User app has no permissions to access the",
		"ERR the password is hunter2":                                                  "ERR",
		"hunter2":                                                                      "ERR",
		"hunter2 hunter2":                                                              "ERR",
		"'key'":                                                                        "ERR",
		"":                                                                             "ERR",
		"ERR " + strings.Repeat("x", 9999):                                             "ERR " + strings.Repeat("x", redisstore.MaxError-4),
	} {
		if got := string(redisstore.NewServerError(text, "", "hunter2")); strings.TrimPrefix(got, "'") != want {
			t.Errorf("%.60q: got %q, want %q", text, got, want)
		}
	}
}

// FuzzReadReply: whatever comes, there is a reply or an error, no larger than it may be, and the same once more if what was
// read is sent again.
func FuzzReadReply(f *testing.F) {
	for _, raw := range []string{
		"+OK\r\n", "-ERR x\r\n", "$5\r\nhello\r\n", "$-1\r\n", "*2\r\n:1\r\n_\r\n", "%1\r\n+server\r\n$5\r\nredis\r\n", "=8\r\ntxt:text\r\n",
		"!3\r\nERR\r\n", "*-1\r\n", "~1\r\n#t\r\n", "$1048577\r\n", "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n",
	} {
		f.Add([]byte(raw))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		reply, err := redisstore.ReadReply(bytes.NewReader(raw))
		if err != nil {
			if reply != nil {
				t.Errorf("%q: got a reply and the error %v", raw, err)
			}
			return
		}
		if n := check(t, reply, 1); n > len(raw) {
			t.Errorf("%q: a reply of %d elements from %d bytes", raw, n, len(raw))
		}
		again, err := redisstore.ReadReply(io.MultiReader(bytes.NewReader(raw), strings.NewReader("+more\r\n")))
		if err != nil || !reflect.DeepEqual(reply, again) {
			t.Errorf("%q: got %v, and (%v, %v) when more follows", raw, reply, again, err)
		}
	})
}

// check counts the elements of a reply, and fails at one that is none.
func check(t *testing.T, reply any, depth int) (n int) {
	if depth > redisstore.MaxDepth {
		t.Errorf("a reply is %d deep", depth)
	}
	switch reply := reply.(type) {
	case nil, string:
	case redisstore.ServerError:
		if len(reply) == 0 || len(reply) > redisstore.MaxError {
			t.Errorf("an error of %d bytes", len(reply))
		}
	case []any:
		for _, item := range reply {
			n += check(t, item, depth+1)
		}
	case map[string]any:
		for _, item := range reply {
			n += check(t, item, depth+1)
		}
	default:
		t.Errorf("a reply is a %T", reply)
	}
	return n + 1
}
