package fluxkafka_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/fluxlimiter/flux/consumers/fluxkafka"
)

// model is what a tracker stands for, in the plainest form: for each offset
// whether it is done.
type model struct {
	done map[int64]bool
	out  map[int64]bool
}

func (m *model) commit() int64 {
	at := int64(0)
	for m.done[at] {
		at++
	}
	return at
}

func (m *model) spans() [][2]int64 {
	var spans [][2]int64
	end := int64(0)
	for o := range m.done {
		end = max(end, o+1)
	}
	for o := m.commit(); o < end; o++ {
		if !m.done[o] {
			continue
		}
		if n := len(spans); n > 0 && spans[n-1][1] == o {
			spans[n-1][1]++
		} else {
			spans = append(spans, [2]int64{o, o + 1})
		}
	}
	return spans
}

// TestTrackerModel holds the tracker, through random histories with gaps,
// repeated owners and releases, to the model at every step.
func TestTrackerModel(t *testing.T) {
	for seed := range uint64(60) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		m := &model{done: make(map[int64]bool), out: make(map[int64]bool)}
		tr := fluxkafka.NewTracker(0, nil)
		check := func(step string) {
			t.Helper()
			if got, want := tr.Commit(), m.commit(); got != want {
				t.Fatalf("seed %d, %s: commit %d, want %d", seed, step, got, want)
			}
			got, ok := fluxkafka.DecodeCompleted(tr.Metadata(), tr.Commit())
			if want := m.spans(); !slices.Equal(got, want) || ok != (len(want) > 0) {
				t.Fatalf("seed %d, %s: completed %v, %v, want %v", seed, step, got, ok, want)
			}
			if counted, real := tr.Gaps(); counted != real {
				t.Fatalf("seed %d, %s: %d gaps counted of %d", seed, step, counted, real)
			}
		}
		for range 400 {
			switch k := rnd.IntN(20); {
			case k < 8: // the next record of the log, after a gap perhaps
				offset := tr.Position()
				if rnd.IntN(4) == 0 {
					offset += rnd.Int64N(5)
				}
				for o := range offset {
					if !m.out[o] {
						m.done[o] = true
					}
				}
				want := !m.done[offset]
				if got := tr.Take(offset); got != want {
					t.Fatalf("seed %d: Take(%d) = %v, want %v", seed, offset, got, want)
				}
				if want {
					m.out[offset] = true
				}
				check(fmt.Sprint("take ", offset))
			case k < 17:
				if o, ok := pick(rnd, m.out); ok {
					delete(m.out, o)
					m.done[o] = true
					tr.Remove(o)
					check(fmt.Sprint("remove ", o))
				}
			case k < 19:
				if o, ok := pick(rnd, m.out); ok {
					tr.Replace(o)
					check(fmt.Sprint("replace ", o))
				}
			default: // another owner
				ahead, _ := fluxkafka.DecodeCompleted(tr.Metadata(), tr.Commit())
				tr = fluxkafka.NewTracker(tr.Commit(), ahead)
				clear(m.out)
				check("another owner")
			}
		}
	}
}

func pick(rnd *rand.Rand, out map[int64]bool) (int64, bool) {
	if len(out) == 0 {
		return 0, false
	}
	var all []int64
	for o := range out {
		all = append(all, o)
	}
	slices.Sort(all)
	return all[rnd.IntN(len(all))], true
}

// TestCrowdedKeepsTheMapSmall drives random settles with a window and takes
// nothing while the tracker is crowded: the map must never outgrow a commit.
func TestCrowdedKeepsTheMapSmall(t *testing.T) {
	for seed := range uint64(4) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		tr := fluxkafka.NewTracker(0, nil)
		out := make(map[int64]bool)
		largest := 0
		for i := range 25_000 {
			if !tr.Crowded() {
				offset := tr.Position() + rnd.Int64N(1+int64(seed)*30)
				tr.Take(offset)
				if rnd.IntN(3) > 0 {
					tr.Remove(offset)
				} else {
					out[offset] = true
				}
			} else if rnd.IntN(10) == 0 {
				for o := range out {
					tr.Remove(o)
					delete(out, o)
					break
				}
			}
			if i%10 == 0 {
				largest = max(largest, len(tr.Metadata()))
			}
		}
		if largest > fluxkafka.MaxMetadata {
			t.Errorf("seed %d: a map of %d bytes", seed, largest)
		}
		if largest < fluxkafka.MaxMetadata/2 {
			t.Errorf("seed %d: the test is too easy: %d bytes at most", seed, largest)
		}
	}
}

func TestDecodeCompletedRefuses(t *testing.T) {
	good := fluxkafka.EncodeCompleted(100, [][2]int64{{101, 110}, {200, 300}})
	if _, ok := fluxkafka.DecodeCompleted(good, 100); !ok {
		t.Fatal("the good map is refused")
	}
	bad := []string{
		"", "x", "flux1", "flux1!!!!", "flux2" + good[5:], good[:len(good)-1], good + "A",
		fluxkafka.EncodeCompleted(99, [][2]int64{{101, 110}}), // of another commit
	}
	for i := len("flux1"); i < len(good); i++ { // one character changed
		other := byte('A')
		if good[i] == 'A' {
			other = 'B'
		}
		bad = append(bad, good[:i]+string(other)+good[i+1:])
	}
	for _, m := range bad {
		if done, ok := fluxkafka.DecodeCompleted(m, 100); ok {
			t.Errorf("%q of %q is taken for %v", m, good, done)
		}
	}
}

// FuzzDecodeCompleted feeds hostile metadata: nothing but a map for that very
// offset may name anything, and what it names must be sorted, apart and above it.
func FuzzDecodeCompleted(f *testing.F) {
	f.Add(fluxkafka.EncodeCompleted(0, [][2]int64{{1, 2}}), int64(0))
	f.Add(fluxkafka.EncodeCompleted(5, [][2]int64{{7, 9}, {11, 12}, {1 << 40, 1 << 41}}), int64(5))
	f.Add(fluxkafka.EncodeCompleted(math.MaxInt64-9, [][2]int64{{math.MaxInt64 - 4, math.MaxInt64}}), int64(math.MaxInt64-9))
	f.Add("flux1cgEBAQ", int64(1))
	f.Fuzz(func(t *testing.T, metadata string, base int64) {
		done, ok := fluxkafka.DecodeCompleted(metadata, base)
		if !ok {
			return
		}
		at := base
		for _, s := range done {
			if s[0] <= at || s[1] <= s[0] {
				t.Fatalf("%q at %d: %v", metadata, base, done)
			}
			at = s[1]
		}
		again, ok := fluxkafka.DecodeCompleted(fluxkafka.EncodeCompleted(base, done), base)
		if len(done) > 0 && (!ok || !slices.Equal(again, done)) {
			t.Fatalf("%v became %v", done, again)
		}
	})
}

// FuzzCompleted encodes any set of spans and reads the same back.
func FuzzCompleted(f *testing.F) {
	f.Add(int64(0), []byte{1, 1, 2, 3})
	f.Add(int64(1)<<50, []byte{255, 255, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1})
	f.Fuzz(func(t *testing.T, base int64, lengths []byte) {
		if base < 0 || base > math.MaxInt64-1<<20 {
			return
		}
		var done [][2]int64
		at := base
		for i := 0; i+1 < len(lengths); i += 2 {
			from := at + 1 + int64(lengths[i])
			at = from + 1 + int64(lengths[i+1])
			done = append(done, [2]int64{from, at})
		}
		encoded := fluxkafka.EncodeCompleted(base, done)
		if len(encoded) > 16*fluxkafka.MaxMetadata {
			return
		}
		got, ok := fluxkafka.DecodeCompleted(encoded, base)
		if ok != (len(done) > 0) || !slices.Equal(got, done) {
			t.Fatalf("%v became %v, %v", done, got, ok)
		}
	})
}

// A broker refuses a commit of more than a megabyte as a whole, however often it
// is tried.
func TestCommitsOfManyPartitionsAreParted(t *testing.T) {
	for range 100 {
		sizes := make([]int, rand.IntN(2000))
		for i := range sizes {
			sizes[i] = rand.IntN(fluxkafka.MaxMetadata + 1)
		}
		for commits := 0; len(sizes) > 0; commits++ {
			n, bytes := fluxkafka.Parcel(sizes), 0
			if n < 1 || n > len(sizes) {
				t.Fatalf("%d of %d maps", n, len(sizes))
			}
			for _, size := range sizes[:n] {
				bytes += size + 100 // of what comes with it
			}
			if bytes > 1<<20 || n < len(sizes) && bytes < 1<<18 {
				t.Errorf("%d maps in one commit, of %d bytes", n, bytes)
			}
			sizes = sizes[n:]
		}
	}
}
