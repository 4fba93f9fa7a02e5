package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/senderbound/senderbound/replay/redisstore"
)

// A server is a Redis in a process of its own, so that what it does is not counted as the client's.
type server struct {
	config redisstore.Config // how to connect to it
	client *redis.Client     // asks what it counts
	stop   func()
}

// openServer connects to the Redis at a URL or, without one, starts one.
func openServer(ctx context.Context, url string) (*server, error) {
	s := &server{stop: func() {}}
	var err error
	if url == "" {
		var address string
		if address, s.stop, err = startRedis(); err != nil {
			return nil, err
		}
		s.config.Addresses = []string{address}
	} else {
		if s.config, err = redisstore.ParseURL(url); err != nil {
			return nil, fmt.Errorf("-redis: %w (environment: REPLAY_USER and REPLAY_PASSWORD)", err)
		}
		if c := s.config; c.Cluster || c.SentinelMaster != "" || c.Infinispan {
			return nil, errors.New("-redis: name a single Redis or Valkey, redis://host:port: others are not measured")
		}
		s.config.Username, s.config.Password = os.Getenv("REPLAY_USER"), os.Getenv("REPLAY_PASSWORD")
	}
	if err := s.await(ctx, url == ""); err != nil {
		s.stop()
		return nil, fmt.Errorf("no Redis answers at %s: %w", s.config.Addresses[0], err)
	}
	s.client = redis.NewClient(s.options())
	return s, nil
}

// await returns when the server accepts connections. One that was just started takes a moment.
func (s *server) await(ctx context.Context, started bool) error {
	for limit := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.config.Addresses[0])
		if err == nil {
			return conn.Close()
		}
		if !started || ctx.Err() != nil || time.Now().After(limit) {
			return err
		}
	}
}

// options are how go-redis connects to it, and otherwise its defaults.
func (s *server) options() *redis.Options {
	return &redis.Options{
		Addr: s.config.Addresses[0], Username: s.config.Username, Password: s.config.Password, TLSConfig: s.config.TLS,
	}
}

// startRedis starts a Redis that keeps nothing on disk, at a free port.
func startRedis() (address string, stop func(), err error) {
	program, err := exec.LookPath(cmp.Or(os.Getenv("REDIS_SERVER"), "redis-server"))
	if err != nil {
		return "", nil, errors.New("there is no redis-server: install Redis, set REDIS_SERVER to its program, or name a Redis with -redis")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	address = listener.Addr().String()
	if err := listener.Close(); err != nil {
		return "", nil, err
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", nil, err
	}
	dir, err := os.MkdirTemp("", "senderbound-load-")
	if err != nil {
		return "", nil, err
	}
	cmd := exec.Command(program, "--port", port, "--bind", "127.0.0.1", "--dir", dir, "--save", "", "--appendonly", "no")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt of the terminal's is for this process to handle
	if err := cmd.Start(); err != nil {
		_ = os.RemoveAll(dir)
		return "", nil, fmt.Errorf("%s does not start: %w", program, err)
	}
	return address, func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = os.RemoveAll(dir)
	}, nil
}

func (s *server) close() {
	_ = s.client.Close()
	s.stop()
}

// cost returns the processor time that the server has used, and how many keys it was asked to set.
func (s *server) cost() (cpu time.Duration, commands int, err error) {
	for _, section := range []string{"cpu", "commandstats"} {
		info, err := s.client.Info(context.Background(), section).Result()
		if err != nil {
			return 0, 0, fmt.Errorf("the server does not answer INFO %s: %w", section, err)
		}
		for line := range strings.Lines(info) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
			switch name {
			case "used_cpu_user", "used_cpu_sys":
				seconds, err := strconv.ParseFloat(value, 64)
				if err != nil {
					return 0, 0, fmt.Errorf("the server's %s is %q: %w", name, value, err)
				}
				cpu += time.Duration(seconds * float64(time.Second))
			case "cmdstat_set", "cmdstat_setnx":
				calls := 0
				if _, err := fmt.Sscanf(value, "calls=%d,", &calls); err != nil {
					return 0, 0, fmt.Errorf("the server's %s is %q: %w", name, value, err)
				}
				commands += calls
			}
		}
	}
	return cpu, commands, nil
}
