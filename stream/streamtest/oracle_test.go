package streamtest_test

import (
	"testing"
	"time"

	"github.com/fluxlimiter/flux/stream/streamtest"
)

// TestKeyOrder has a message processed while an earlier one of its key is away:
// that is allowed from 30 seconds after it was due, and not while another that is
// earlier, too, is here.
func TestKeyOrder(t *testing.T) {
	begin := time.Unix(0, 0)
	message := func(id int64) *streamtest.Message {
		return &streamtest.Message{ID: id, Tenant: "t", Key: "k"}
	}
	for _, test := range []struct {
		name    string
		late    time.Duration
		another bool // message 2 is here
		back    bool // message 1 is here again
		wrong   bool
	}{
		{name: "due", wrong: true},
		{name: "late", late: 30 * time.Second, wrong: true},
		{name: "overdue", late: 30*time.Second + 1},
		{name: "overdue and back", late: 30*time.Second + 1, back: true, wrong: true},
		{name: "overdue beside one that is here", late: 30*time.Second + 1, another: true, wrong: true},
	} {
		var h streamtest.History
		add := func(kind streamtest.Kind, id int64, at time.Duration, until time.Time) {
			h = append(h, streamtest.Event{Kind: kind, Message: message(id), At: begin.Add(at), Until: until})
		}
		add(streamtest.Published, 1, 0, time.Time{})
		if test.another {
			add(streamtest.Published, 2, 0, time.Time{})
		}
		add(streamtest.Published, 3, 0, time.Time{})
		add(streamtest.Delivered, 1, 0, time.Time{})
		add(streamtest.Deferred, 1, 0, begin.Add(time.Second))
		if test.back {
			add(streamtest.Delivered, 1, time.Second+test.late, time.Time{})
		}
		add(streamtest.Started, 3, time.Second+test.late, time.Time{})
		if err := h.KeyOrder(); (err != nil) != test.wrong {
			t.Errorf("%s: KeyOrder = %v", test.name, err)
		}
	}
}
