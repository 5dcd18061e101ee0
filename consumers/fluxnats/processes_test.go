package fluxnats_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// clusterTime is how long a cluster lives at most. The two of these tests take less
// than the time that CI gives them, so that no server outlives one that hangs.
const clusterTime = 140 * time.Second

// cluster is three nats-server processes that replicate between one another.
type cluster struct {
	testing.TB
	binary string
	dir    string
	ctx    context.Context //nolint:containedctx // it bounds the life of the processes
	nodes  []*node
}

// node is one server, which may be killed and started again.
type node struct {
	name       string
	port, peer int
	cmd        *exec.Cmd
	gone       chan struct{} // closed when the process has ended
}

// startCluster starts the servers, or skips the test if nobody asked for real
// ones. They are killed when the test ends.
func startCluster(tb testing.TB) *cluster {
	tb.Helper()
	if os.Getenv("FLUX_NATS_CLUSTER") == "" {
		tb.Skip("SKIPPED: wants three real nats-server processes; set FLUX_NATS_CLUSTER=1, and FLUX_NATS_SERVER to a binary unless it is to be built")
	}
	c := &cluster{TB: tb, binary: os.Getenv("FLUX_NATS_SERVER"), dir: tb.TempDir()}
	if c.binary == "" {
		c.binary = filepath.Join(c.dir, "nats-server")
		if out, err := exec.CommandContext(tb.Context(), "go", "build", "-o", c.binary, "github.com/nats-io/nats-server/v2").CombinedOutput(); err != nil {
			tb.Fatalf("build nats-server: %v\n%s", err, out)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), clusterTime)
	c.ctx = ctx
	tb.Cleanup(func() {
		cancel()
		for _, n := range c.nodes {
			<-n.gone
		}
		if tb.Failed() {
			c.logs()
		}
	})
	ports := freePorts(tb, 6)
	for i := range 3 {
		c.nodes = append(c.nodes, &node{name: fmt.Sprintf("n%d", i+1), port: ports[2*i], peer: ports[2*i+1], gone: closed()})
	}
	for _, n := range c.nodes {
		c.start(n)
	}
	return c
}

func closed() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// freePorts returns ports that nobody listened on a moment ago. The servers of a
// cluster must know one another's before they start.
func freePorts(tb testing.TB, n int) (ports []int) {
	tb.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

func (c *cluster) start(n *node) {
	c.Helper()
	var routes []string
	for _, peer := range c.nodes {
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", peer.peer))
	}
	n.cmd = exec.CommandContext(c.ctx, c.binary, "-a", "127.0.0.1", "-p", fmt.Sprint(n.port), "-js", "-sd", filepath.Join(c.dir, n.name),
		"--server_name", n.name, "--cluster_name", "flux", "--cluster", fmt.Sprintf("nats://127.0.0.1:%d", n.peer),
		"--routes", strings.Join(routes, ","), "-l", c.log(n))
	if err := n.cmd.Start(); err != nil {
		c.Fatal(err)
	}
	n.gone = make(chan struct{})
	go func(cmd *exec.Cmd, gone chan struct{}) {
		_ = cmd.Wait() // it is killed, as a rule
		close(gone)
	}(n.cmd, n.gone)
}

// end tells servers to stop in good order, or kills them as the kernel does when
// memory runs out, with no time for anything.
func (c *cluster) end(orderly bool, nodes ...*node) {
	c.Helper()
	signal := os.Kill
	if orderly {
		signal = os.Interrupt
	}
	for _, n := range nodes {
		if err := n.cmd.Process.Signal(signal); err != nil {
			c.Fatal(err)
		}
	}
	for _, n := range nodes {
		<-n.gone
	}
}

func (c *cluster) log(n *node) string { return filepath.Join(c.dir, n.name+".log") }

// logs prints the end of what the servers had to say.
func (c *cluster) logs() {
	for _, n := range c.nodes {
		b, err := os.ReadFile(c.log(n))
		if err != nil {
			c.Log(err)
			continue
		}
		c.Logf("log of %s ends:\n%s", n.name, b[max(0, len(b)-4<<10):])
	}
}

// node returns the server of a name.
func (c *cluster) node(name string) *node {
	c.Helper()
	i := slices.IndexFunc(c.nodes, func(n *node) bool { return n.name == name })
	if i < 0 {
		c.Fatalf("no server %q", name)
	}
	return c.nodes[i]
}

func (n *node) url() string { return fmt.Sprintf("nats://127.0.0.1:%d", n.port) }

// connect returns a connection to the first of some servers, which goes to
// another when that one is lost.
func (c *cluster) connect(first *node) (*nats.Conn, jetstream.JetStream) {
	c.Helper()
	urls := []string{first.url()}
	for _, n := range c.nodes {
		if n != first {
			urls = append(urls, n.url())
		}
	}
	nc, err := nats.Connect(strings.Join(urls, ","), nats.DontRandomize(), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond),
		nats.RetryOnFailedConnect(true), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		c.Fatal(err)
	}
	c.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		c.Fatal(err)
	}
	return nc, js
}

// until calls f until it returns nil, and fails the test after a minute and a half:
// an advisory that was on its way when a server was killed comes again in a minute.
func (c *cluster) until(what string, f func(ctx context.Context) error) {
	c.Helper()
	err := errors.New("not tried")
	for end := time.Now().Add(90 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(c.Context(), 2*time.Second)
		err = f(ctx)
		cancel()
		if err == nil {
			return
		}
	}
	c.Fatalf("%s: %v", what, err)
}
