package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// connect connects to the server at url, or starts one inside this process if
// that is empty.
func connect(url string) (nc *nats.Conn, closeAll func(), err error) {
	if url != "" {
		if nc, err = nats.Connect(url, nats.Name("flux workers")); err != nil {
			return nil, nil, fmt.Errorf("-nats: cannot connect: %w", err)
		}
		return nc, nc.Close, nil
	}
	s, err := server.NewServer(&server.Options{ServerName: "flux-workers", DontListen: true, NoLog: true, NoSigs: true})
	if err != nil {
		return nil, nil, fmt.Errorf("start a server: %w", err)
	}
	stop := func() {
		s.Shutdown()
		s.WaitForShutdown()
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		stop()
		return nil, nil, errors.New("start a server: it is not ready after 10s")
	}
	if nc, err = nats.Connect("", nats.InProcessServer(s)); err != nil {
		stop()
		return nil, nil, fmt.Errorf("connect to the server inside this process: %w", err)
	}
	return nc, func() {
		nc.Close()
		stop()
	}, nil
}
