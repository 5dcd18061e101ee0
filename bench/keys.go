package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// seed makes every run draw the same keys.
const seed = 1

// keySet returns n keys of 14 bytes.
func keySet(n int) []string {
	ids := make([]int, n)
	for i := range ids {
		ids[i] = i
	}
	return spell(ids)
}

// spell writes the keys of ids one behind the other in memory, a copy for each
// appearance: as in a service, where the key has just been read out of a
// message, lies in the cache, and is not the very string that the limiter may
// have kept.
func spell(ids []int) []string {
	const size = 14
	var b strings.Builder
	b.Grow(size * len(ids))
	for _, id := range ids {
		fmt.Fprintf(&b, "tenant-%07d", id)
	}
	all := b.String()
	keys := make([]string, len(ids))
	for i := range keys {
		keys[i] = all[i*size : (i+1)*size]
	}
	return keys
}

// uniform returns n keys drawn evenly out of distinct ones.
func uniform(n, distinct int) []string {
	r := rand.New(rand.NewPCG(seed, 0))
	ids := make([]int, n)
	for i := range ids {
		ids[i] = r.IntN(distinct)
	}
	return spell(ids)
}

// zipf returns n keys drawn out of distinct ones by Zipf's law with exponent
// 1.1: of a million keys, the busiest is drawn about one time in eight. Which
// key is busy has nothing to do with its place in the key set.
func zipf(n, distinct int) []string {
	r := rand.New(rand.NewPCG(seed, 1))
	z := rand.NewZipf(r, 1.1, 1, uint64(distinct-1))
	rank := r.Perm(distinct)
	ids := make([]int, n)
	for i := range ids {
		ids[i] = rank[z.Uint64()]
	}
	return spell(ids)
}
