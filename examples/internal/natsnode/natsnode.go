// Package natsnode connects an example program to NATS: to a server that is
// there, or to one inside the process.
package natsnode

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// timeout bounds how long it takes to find out that a server is not there.
const timeout = 2 * time.Second

// Flag adds the flag -nats, which says where the server is.
func Flag(flags *flag.FlagSet, urls *string) {
	flags.Func("nats", "use the NATS server at `URL` instead of one inside this process", func(s string) error {
		if strings.TrimSpace(s) == "" { // a shell variable that is not set, most likely
			return errors.New("want a URL such as nats://127.0.0.1:4222")
		}
		*urls = s
		return nil
	})
}

// Node is a connection to a NATS server, and the server itself if it is ours.
type Node struct {
	Conn *nats.Conn

	// Where is the server, for messages to the reader: without passwords and
	// tokens.
	Where string

	server *server.Server
	folder string
}

// Open connects the program of that name to the server at urls, or starts one if
// urls is empty. withJetStream says that the program needs JetStream: a server
// without it is refused.
func Open(ctx context.Context, urls, program string, withJetStream bool) (_ *Node, err error) {
	n := &Node{Where: redacted(urls)}
	what := "-nats " + n.Where
	if urls == "" {
		n.Where = "a NATS server inside this process"
		what = "starting " + n.Where
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("%s: %w", what, err), n.Close())
		}
	}()
	switch {
	case urls == "":
		return n, n.start(program, withJetStream)
	case withJetStream:
		if err := n.connect(urls, program); err != nil {
			return n, err
		}
		return n, n.probe(ctx)
	}
	return n, n.connect(urls, program)
}

// start starts a NATS server inside this process. It keeps its streams in a
// temporary folder and listens nowhere: the only connection is ours, through
// memory.
func (n *Node) start(program string, withJetStream bool) (err error) {
	if withJetStream {
		if n.folder, err = os.MkdirTemp("", "flux-"+program+"-"); err != nil {
			return err
		}
	}
	n.server, err = server.NewServer(&server.Options{
		ServerName: "flux-" + program,
		JetStream:  withJetStream,
		StoreDir:   n.folder,
		DontListen: true,
		NoLog:      true,
		NoSigs:     true,
	})
	if err != nil {
		return err
	}
	n.server.Start()
	if !n.server.ReadyForConnections(10 * time.Second) {
		return errors.New("it is not ready after 10s")
	}
	n.Conn, err = nats.Connect("", nats.InProcessServer(n.server))
	return err
}

func (n *Node) connect(urls, program string) (err error) {
	n.Conn, err = nats.Connect(urls,
		nats.Name("flux "+program),
		nats.Timeout(timeout),
		// Resolving the name is then part of dialling, and of its timeout.
		func(o *nats.Options) error { o.SkipHostLookup = true; return nil },
	)
	if err != nil {
		return fmt.Errorf("cannot connect: %w", err)
	}
	return nil
}

// probe finds out whether the server has JetStream for this account.
func (n *Node) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	js, err := jetstream.New(n.Conn)
	if err == nil {
		_, err = js.AccountInfo(ctx)
	}
	if err != nil {
		return fmt.Errorf("cannot use JetStream: %w", err)
	}
	return nil
}

// Close ends the connection, and the server and its folder if they are ours.
func (n *Node) Close() error {
	if n.Conn != nil {
		n.Conn.Close()
	}
	if n.server != nil {
		n.server.Shutdown()
		n.server.WaitForShutdown()
	}
	if n.folder != "" {
		return os.RemoveAll(n.folder)
	}
	return nil
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
