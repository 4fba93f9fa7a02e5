package redisstore

import (
	"bufio"
	"context"
	"io"
	"net"
)

// What the tests see of the inside.

type (
	ServerError = serverError
	Refusal     = refusal
)

const (
	SlotCount = slotCount
	MaxText   = maxText
	MaxItems  = maxItems
	MaxDepth  = maxDepth
	MaxError  = maxError
)

var (
	SlotOf         = slotOf
	TagOf          = tagOf
	FirstSlot      = firstSlot
	CountNodes     = countNodes
	NewServerError = newServerError
	AppendCommand  = appendCommand
)

func ReadReply(r io.Reader) (any, error) { return readReply(bufio.NewReader(r), maxDepth) }

func Over(conn net.Conn) func(ctx context.Context, commands ...[]string) ([]any, error) {
	return over(conn)
}

// A Guard is one by itself, for answers that are made up.
type Guard struct{ *guard }

func NewGuard(cfg Config) (*Guard, error) {
	floor, err := cfg.complete(true)
	if err != nil {
		return nil, err
	}
	return &Guard{&newStore(cfg, floor).guard}, nil
}

func (g *Guard) Hello(send exchange) (clustered bool, err error) {
	return g.hello(context.Background(), send)
}

func (g *Guard) HelloSentinel(send exchange) error {
	return g.helloSentinel(context.Background(), send)
}

func (g *Guard) Look(send exchange, clustered bool) error {
	return g.look(context.Background(), send, clustered)
}

func (g *Guard) TwoStep() bool { return g.twoStep.Load() }
