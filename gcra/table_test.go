package gcra_test

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/fluxlimiter/flux/gcra"
)

func newTable[K comparable](tb testing.TB, cfg gcra.TableConfig) *gcra.Table[K] {
	tb.Helper()
	table, err := gcra.NewTable[K](cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return table
}

func verify[K comparable](tb testing.TB, table *gcra.Table[K]) {
	tb.Helper()
	if err := table.Verify(); err != nil {
		tb.Fatal(err)
	}
}

// sweepAll sweeps the whole table in steps of budget, wherever the last sweep
// left off.
func sweepAll[K comparable](table *gcra.Table[K], now int64, budget int) (removed int) {
	for passes := 0; passes < 2; {
		n, done := table.Sweep(now, budget)
		removed += n
		if done {
			passes++
		}
	}
	return removed
}

func TestNewTable(t *testing.T) {
	for name, cfg := range map[string]gcra.TableConfig{
		"TableConfig.Limit":   {Limit: gcra.PerSecond(-1)},
		"TableConfig.MaxKeys": {MaxKeys: -1},
	} {
		if table, err := gcra.NewTable[int](cfg); err == nil || table != nil || !contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	table := newTable[int](t, gcra.TableConfig{})
	if _, err := table.TakeAt(1, nil, 0, 1); !errors.Is(err, gcra.ErrInvalidLimit) {
		t.Errorf("no limit at all: %v", err)
	}
	own := gcra.PerSecond(1)
	if d, err := table.TakeAt(1, &own, 0, 1); err != nil || !d.Allowed() || table.Len() != 1 {
		t.Errorf("a limit of its own: %+v, %v, %d keys", d, err, table.Len())
	}
}

// What is refused, peeked at, given back, or fails, does not make a key tracked.
func TestNothingToKeep(t *testing.T) {
	table := newTable[string](t, gcra.TableConfig{Limit: gcra.PerSecond(10)})
	all, none := gcra.Unlimited(), gcra.DenyAll()
	for name, call := range map[string]func(key string) error{
		"peek": func(key string) error { _, err := table.TakeAt(key, nil, 5, 0); return err },
		"too many": func(key string) error {
			_, err := table.TakeAt(key, nil, 5, 11)
			return unless(err, gcra.ErrExceedsBurst)
		},
		"negative": func(key string) error { _, err := table.TakeAt(key, nil, 5, -1); return unless(err, gcra.ErrNegative) },
		"out of time": func(key string) error {
			_, err := table.TakeAt(key, nil, math.MaxInt64, 1)
			return unless(err, gcra.ErrTime)
		},
		"unlimited":     func(key string) error { _, err := table.TakeAt(key, &all, 5, 1000); return err },
		"deny all":      func(key string) error { _, err := table.TakeAt(key, &none, 5, 1); return err },
		"refund":        func(key string) error { return table.RefundAt(key, nil, 5, 3) },
		"failed refund": func(key string) error { return unless(table.RefundAt(key, nil, 5, -3), gcra.ErrNegative) },
		"no debt":       func(key string) error { _, err := table.DebtAt(key, nil, 5, 0); return err },
		"failed debt":   func(key string) error { _, err := table.DebtAt(key, nil, 5, -1); return unless(err, gcra.ErrNegative) },
		"rescale":       func(key string) error { table.RescaleAt(key, 5, nil, &all); return nil },
		"handle":        func(key string) error { _, err := table.Key(key).TakeAt(nil, 5, 0); return err },
	} {
		if err := call(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := table.Len(); n != 0 {
		t.Errorf("%d keys tracked", n)
	}
	verify(t, table)
}

// unless returns nil for the error that is wanted, and another one otherwise.
func unless(err, want error) error {
	if errors.Is(err, want) {
		return nil
	}
	return fmt.Errorf("got %w, want %w", err, want)
}

func contains(s, part string) bool {
	for i := range len(s) - len(part) + 1 {
		if s[i:i+len(part)] == part {
			return true
		}
	}
	return false
}

// plain is the slow model of a table: a map that forgets nothing.
type plain struct {
	limit gcra.Limit
	keys  map[string]*plainKey
}

type plainKey struct {
	tat int64
	own bool // the last call named a limit
}

func (m *plain) key(name string) *plainKey {
	k := m.keys[name]
	if k == nil {
		k = &plainKey{tat: math.MinInt64}
		m.keys[name] = k
	}
	return k
}

// limitOf returns the limit that a call decides by, and notes whose it was.
func (m *plain) limitOf(k *plainKey, own *gcra.Limit) *gcra.Limit {
	limit := own
	if own == nil {
		limit = &m.limit
	}
	if !limit.IsUnlimited() && !limit.IsDenyAll() { // they do not look at the key
		k.own = own != nil
	}
	return limit
}

// play drives a table through the operations on the tape beside the model, and
// wants the same answer to every one of them.
func play(t *testing.T, p tape) {
	t.Helper()
	var (
		names   = 1 + p.below(1<<(4+p.byte()%12))
		table   = newTable[string](t, gcra.TableConfig{Limit: gcra.PerSecond(100).WithBurst(10)})
		model   = plain{gcra.PerSecond(100).WithBurst(10), map[string]*plainKey{}}
		handles = map[string]*gcra.Handle{}
		now     = p.int() / 8
		limits  = []gcra.Limit{
			gcra.PerSecond(100).WithBurst(10), gcra.PerSecond(10).WithBurst(5), gcra.PerSecond(150e6).WithBurst(1000),
			gcra.PerSecond(1000).WithBurst(100), gcra.PerHour(7), gcra.Unlimited(), gcra.DenyAll(),
		}
	)
	pick := func() *gcra.Limit { return &limits[p.byte()%byte(len(limits))] }
	for len(p) > 0 {
		name := fmt.Sprint(p.below(names))
		k := model.key(name)
		var own *gcra.Limit
		if p.byte()%4 == 0 {
			own = pick()
		}
		h := handles[name]
		if h == nil && p.byte()%4 == 0 {
			h = table.Key(name)
			handles[name] = h
		}
		n := int64(p.byte()%12) - 1
		switch op := p.byte() % 16; op {
		case 0, 1, 2, 3, 4, 5:
			var want, got gcra.Decision
			var wantErr, err error
			k.tat, want, wantErr = model.limitOf(k, own).Take(k.tat, now, n)
			if h != nil {
				got, err = h.TakeAt(own, now, n)
			} else {
				got, err = table.TakeAt(name, own, now, n)
			}
			same(t, fmt.Sprintf("TakeAt(%s, %v, %d, %d)", name, own, now, n), got, want, err, wantErr)
		case 6:
			var want, got gcra.Decision
			var wantErr, err error
			k.tat, want, wantErr = model.limitOf(k, own).Debt(k.tat, now, 3*n)
			if h != nil {
				got, err = h.DebtAt(own, now, 3*n)
			} else {
				got, err = table.DebtAt(name, own, now, 3*n)
			}
			same(t, fmt.Sprintf("DebtAt(%s, %v, %d, %d)", name, own, now, 3*n), got, want, err, wantErr)
		case 7, 8:
			var wantErr, err error
			k.tat, wantErr = model.limitOf(k, own).Refund(k.tat, now, n)
			if h != nil {
				err = h.RefundAt(own, now, n)
			} else {
				err = table.RefundAt(name, own, now, n)
			}
			if fmt.Sprint(err) != fmt.Sprint(wantErr) {
				t.Fatalf("RefundAt(%s, %v, %d, %d): %v, want %v", name, own, now, n, err, wantErr)
			}
		case 9:
			from, to := own, pick()
			if p.byte()%3 == 0 {
				to = nil
			}
			f, l := from, to
			if from == nil {
				f = &model.limit
			}
			if to == nil {
				l = &model.limit
			}
			k.tat = gcra.Rescale(k.tat, now, f, l)
			k.own = to != nil
			if h != nil {
				h.RescaleAt(now, from, to)
			} else {
				table.RescaleAt(name, now, from, to)
			}
		case 10:
			if p.byte()%8 != 0 {
				break
			}
			to := *pick()
			for _, k := range model.keys {
				if !k.own {
					k.tat = gcra.Rescale(k.tat, now, &model.limit, &to)
				}
			}
			model.limit = to
			if err := table.SetLimit(now, to); err != nil {
				t.Fatal(err)
			}
		case 11:
			table.Sweep(now, int(p.below(2000)))
		case 12:
			now += p.below(int64(time.Second))
		case 13:
			if p.byte()%16 == 0 {
				now += p.below(int64(time.Hour))
			}
		case 14: // a run of keys, for pages to fill
			for i := range 1 + p.below(2000) {
				name := fmt.Sprint(p.below(names) + i)
				k := model.key(name)
				var want gcra.Decision
				var wantErr error
				k.tat, want, wantErr = model.limitOf(k, nil).Take(k.tat, now, 1)
				got, err := table.TakeAt(name, nil, now, 1)
				same(t, "TakeAt in a run", got, want, err, wantErr)
			}
		case 15:
			if p.byte()%8 == 0 {
				verify(t, table)
			}
		}
	}
	verify(t, table)
	debts := 0
	for name, k := range model.keys {
		if k.tat > now {
			debts++
		}
		limit := &model.limit
		if k.own {
			limit = &limits[0]
		}
		_, want, wantErr := limit.Take(k.tat, now, 0)
		var own *gcra.Limit
		if k.own {
			own = limit
		}
		got, err := table.TakeAt(name, own, now, 0)
		same(t, "the last look at "+name, got, want, err, wantErr)
	}
	if table.Len() < debts {
		t.Fatalf("%d keys in debt, %d tracked", debts, table.Len())
	}
	if sweepAll(table, now, 1); table.Len() != debts {
		t.Fatalf("%d keys in debt, %d tracked after a sweep", debts, table.Len())
	}
	verify(t, table)
}

// same wants two decisions to be equal, in what they say of the limit too.
func same(t *testing.T, call string, got, want gcra.Decision, err, wantErr error) {
	t.Helper()
	if fmt.Sprint(err) != fmt.Sprint(wantErr) {
		t.Fatalf("%s: %v, want %v", call, err, wantErr)
	}
	g, w := got, want
	gl, wl := g.Limit(), w.Limit()
	g = gcra.NewDecision(nil, g.At, g.RetryAfter, g.ResetAfter)
	w = gcra.NewDecision(nil, w.At, w.RetryAfter, w.ResetAfter)
	if g != w || gl != wl {
		t.Fatalf("%s: %+v under %v, want %+v under %v", call, g, gl, w, wl)
	}
}

func TestTableBesideAMap(t *testing.T) { playTapes(t, play, 150, 1000, 31_000) }

func FuzzTable(f *testing.F) { fuzzTapes(f, play, 1000) }

// Keys of other types than strings, and equal keys of different identity.
func TestKeysOfAllTypes(t *testing.T) {
	type name string
	type composite struct {
		tenant string
		region int
		part   [2]uint8
	}
	table1 := newTable[composite](t, gcra.TableConfig{Limit: gcra.PerSecond(1)})
	table2 := newTable[any](t, gcra.TableConfig{Limit: gcra.PerSecond(1)})
	table3 := newTable[name](t, gcra.TableConfig{Limit: gcra.PerSecond(1)})
	first := func(d gcra.Decision, err error) bool { return err == nil && d.Allowed() }
	if key := string([]byte("ab")); !first(table1.TakeAt(composite{key, 1, [2]uint8{1, 2}}, nil, 0, 1)) ||
		first(table1.TakeAt(composite{"a" + key[1:], 1, [2]uint8{1, 2}}, nil, 0, 1)) ||
		!first(table1.TakeAt(composite{key, 2, [2]uint8{1, 2}}, nil, 0, 1)) {
		t.Error("structs")
	}
	if !first(table2.TakeAt(1, nil, 0, 1)) || first(table2.TakeAt(1, nil, 0, 1)) || !first(table2.TakeAt("1", nil, 0, 1)) || !first(table2.TakeAt(int8(1), nil, 0, 1)) {
		t.Error("interfaces")
	}
	if !first(table3.TakeAt("a", nil, 0, 1)) || first(table3.TakeAt("a", nil, 0, 1)) || !first(table3.TakeAt("", nil, 0, 1)) {
		t.Error("named strings")
	}
}

// However many keys there are, the memory is in proportion, and it shrinks with
// them.
func TestMemoryFollowsKeys(t *testing.T) {
	table := newTable[int](t, gcra.TableConfig{Limit: gcra.PerHour(1)})
	keys := 0
	for _, n := range []int{5_000, 20_000, 50_000, 80_000, 120_000, 200_000} {
		for ; keys < n; keys++ {
			if d, err := table.TakeAt(keys, nil, 0, 1); err != nil || !d.Allowed() {
				t.Fatal(d, err)
			}
		}
		stats := table.Stats()
		if stats.Tracked != n || table.Len() != n {
			t.Fatalf("%d keys, %d tracked", n, stats.Tracked)
		}
		if perKey := float64(stats.Slots) * 16 / float64(n); perKey > 42 {
			t.Errorf("%.1f bytes per key at %d keys", perKey, n)
		}
	}
	verify(t, table)
	deep := table.Depth()
	if n := sweepAll(table, int64(time.Hour), 10_000); n != keys || table.Len() != 0 || table.Stats().Slots != 0 {
		t.Errorf("swept %d of %d keys, %d tracked, %d slots", n, keys, table.Len(), table.Stats().Slots)
	}
	verify(t, table)
	if table.Depth() >= deep {
		t.Errorf("directories of depth %d before, %d after", deep, table.Depth())
	}
	// And again, now that there is a past.
	for i := range 5000 {
		table.TakeAt(-i, nil, int64(2*time.Hour), 1)
	}
	if table.Len() != 5000 {
		t.Errorf("%d tracked", table.Len())
	}
	verify(t, table)
}

// A key whose page is full gets a limit of its own, or loses it: it takes its debt
// along, and room is made for it.
func TestOwnLimitInAFullPage(t *testing.T) {
	own := gcra.PerHour(1).WithBurst(100)
	for name, change := range map[string]func(table *gcra.Table[int], key int) error{
		"take":    func(table *gcra.Table[int], key int) error { _, err := table.TakeAt(key, &own, 0, 0); return err },
		"rescale": func(table *gcra.Table[int], key int) error { table.RescaleAt(key, 0, nil, &own); return nil },
	} {
		table := newTable[int](t, gcra.TableConfig{Limit: gcra.PerHour(1).WithBurst(100)})
		full := 0
		for key := 0; full < 10; key++ {
			if d, err := table.TakeAt(key, nil, 0, 7); err != nil || !d.Allowed() {
				t.Fatal(d, err)
			}
			h := table.Key(key)
			if h.Used() < gcra.FullAt {
				continue
			}
			full++
			if err := change(table, key); err != nil {
				t.Fatal(err)
			}
			if d, err := h.TakeAt(&own, 0, 0); err != nil || d.Remaining() != 93 || table.Len() != key+1 {
				t.Fatalf("%s: %d left of 93, %v; %d of %d keys", name, d.Remaining(), err, table.Len(), key+1)
			}
			if h.Used() >= gcra.FullAt {
				t.Fatalf("%s: %d slots of the page are used", name, h.Used())
			}
			verify(t, table)
		}
	}
}

// TryAt decides what TakeAt would, or nothing; and decisions tell by which limit.
func TestTryAt(t *testing.T) {
	table := newTable[int](t, gcra.TableConfig{Limit: gcra.PerSecond(10)})
	own, uneven, all := gcra.PerSecond(5), gcra.PerSecond(150e6), gcra.Unlimited()
	const now = 7
	for k, tt := range []struct {
		limit  *gcra.Limit
		now, n int64
		tries  bool
	}{
		{nil, now, 3, true},
		{&own, now, 5, true},
		{nil, now, 0, false},
		{nil, now, 11, false},
		{nil, now, -1, false},
		{nil, math.MaxInt64, 1, false},
		{&uneven, now, 1, false},
		{&all, now, 1, false},
	} {
		h, beside := table.Key(2*k), table.Key(2*k+1)
		for i := range 5 {
			want, wantErr := beside.TakeAt(tt.limit, tt.now, tt.n)
			d, err := h.TryAt(tt.limit, tt.now, tt.n), error(nil)
			tried := d != gcra.Decision{}
			if !tried {
				d, err = h.TakeAt(tt.limit, tt.now, tt.n)
			}
			same(t, fmt.Sprintf("%d, call %d", k, i), d, want, err, wantErr)
			if i > 1 && tried != tt.tries { // by then, the handle has found its slot
				t.Errorf("%d, call %d: decided %v", k, i, tried)
			}
			if by := tt.limit; d.By() != nil && d.By() != cmp.Or(by, table.Limit()) {
				t.Errorf("%d, call %d: by %v", k, i, d.Limit())
			}
		}
	}
	if err := table.SetLimit(now, own); err != nil || *table.Limit() != own {
		t.Errorf("%v under %v", err, table.Limit())
	}
}
