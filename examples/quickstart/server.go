package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// connectTimeout bounds how long it takes to find out that a server is not there.
const connectTimeout = 2 * time.Second

// broker is a connection to a NATS server with JetStream, and the server itself
// if it is ours.
type broker struct {
	nc     *nats.Conn
	where  string // for messages to the reader
	server *server.Server
	folder string
}

// connect connects to the server at urls, or starts one if urls is empty.
func connect(ctx context.Context, urls string) (*broker, error) {
	if urls == "" {
		return startServer()
	}
	b := &broker{where: redacted(urls)}
	nc, err := nats.Connect(urls,
		nats.Name("flux quickstart"),
		nats.Timeout(connectTimeout),
		// Resolving the name is then part of dialling, and of its timeout.
		func(o *nats.Options) error { o.SkipHostLookup = true; return nil },
	)
	if err != nil {
		return nil, fmt.Errorf("-nats %s: cannot connect: %w", b.where, err)
	}
	b.nc = nc
	if err := probe(ctx, nc); err != nil {
		return nil, errors.Join(fmt.Errorf("-nats %s: cannot use JetStream: %w", b.where, err), b.close())
	}
	return b, nil
}

// probe finds out whether the server has JetStream for this account.
func probe(ctx context.Context, nc *nats.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	_, err = js.AccountInfo(ctx)
	return err
}

// redacted returns urls, which may be several, without passwords and tokens.
func redacted(urls string) string {
	all := strings.Split(urls, ",")
	for i, one := range all {
		if u, err := url.Parse(strings.TrimSpace(one)); err == nil && u.User != nil {
			u.User = url.User("xxxxx")
			all[i] = u.String()
		}
	}
	return strings.Join(all, ",")
}

// startServer starts a NATS server inside this process. It keeps its streams in
// a temporary folder and listens nowhere: the only connection is ours, through
// memory.
func startServer() (_ *broker, err error) {
	b := &broker{where: "a NATS server inside this process"}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("starting %s: %w", b.where, err), b.close())
		}
	}()
	if b.folder, err = os.MkdirTemp("", "flux-quickstart-"); err != nil {
		return nil, err
	}
	b.server, err = server.NewServer(&server.Options{
		ServerName: "flux-quickstart",
		JetStream:  true,
		StoreDir:   b.folder,
		DontListen: true,
		NoLog:      true,
		NoSigs:     true,
	})
	if err != nil {
		return nil, err
	}
	b.server.Start()
	if !b.server.ReadyForConnections(10 * time.Second) {
		return nil, errors.New("it is not ready after 10s")
	}
	b.nc, err = nats.Connect("", nats.InProcessServer(b.server))
	return b, err
}

// close ends the connection, and the server and its folder if they are ours.
func (b *broker) close() error {
	if b.nc != nil {
		b.nc.Close()
	}
	if b.server != nil {
		b.server.Shutdown()
		b.server.WaitForShutdown()
	}
	if b.folder != "" {
		return os.RemoveAll(b.folder)
	}
	return nil
}
