package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kfake"
)

// The flood is held to the limit and mostly deferred, the others get all of
// theirs through.
func TestDemo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var net kfake.VirtualNetwork
		cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(9092), kfake.ListenFn(net.Listen))
		if err != nil {
			t.Fatal(err)
		}
		defer cluster.Close()
		var out bytes.Buffer
		err = run(t.Context(), config{
			brokers: cluster.ListenAddrs(), dialer: &kafka.Dialer{DialFunc: net.DialContext, Timeout: time.Second},
			topic: "t", group: "g", rate: 50, duration: 20 * time.Second, out: &out,
		})
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		last := strings.Join(strings.Fields(lines[len(lines)-1]), " ")
		t.Log(last)
		var acme, bolt, cara [2]int
		var dwell string
		if _, err := fmt.Sscanf(last, "acme: %d processed %d deferred %s bolt: %d processed %d deferred %s cara: %d processed %d deferred",
			&acme[0], &acme[1], &dwell, &bolt[0], &bolt[1], &dwell, &cara[0], &cara[1]); err != nil {
			t.Fatalf("%v in %q", err, last)
		}
		if acme[0] < 50*15 || acme[0] > 50*21 || acme[1] == 0 {
			t.Errorf("of the flood %d were processed and %d deferred", acme[0], acme[1])
		}
		if bolt[0] < 20*18 || bolt[1] > 0 || cara[0] < 10*18 || cara[1] > 0 {
			t.Errorf("of the others %v and %v were processed and deferred", bolt, cara)
		}
	})
}
