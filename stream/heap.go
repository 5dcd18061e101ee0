package stream

// heap is a min-heap of items that know their place in it, so that any of them
// can be moved or removed in O(log n). Equal keys leave in the order in which
// they were put in. It has four children per node: that halves the depth, and
// the keys of siblings share a cache line.
//
// Keys are compared by their difference, so they may wrap around as long as any
// two in the heap lie within 2⁶³ of each other.
type heap[T interface{ setIndex(i int32) }] struct {
	slots []slot[T]
	ties  uint32
}

// slot keeps the key beside the item, so that comparing does not touch items.
type slot[T any] struct {
	key  int64
	tie  uint32
	item T
}

func (a *slot[T]) before(b *slot[T]) bool {
	if a.key != b.key {
		return a.key-b.key < 0
	}
	return int32(a.tie-b.tie) < 0
}

func (h *heap[T]) len() int { return len(h.slots) }

// top returns the item with the smallest key of a heap that is not empty.
func (h *heap[T]) top() (item T, key int64) { return h.slots[0].item, h.slots[0].key }

func (h *heap[T]) push(item T, key int64) {
	h.ties++
	h.slots = append(h.slots, slot[T]{key: key, tie: h.ties, item: item})
	h.up(len(h.slots) - 1)
}

// fix gives the item at i another key.
func (h *heap[T]) fix(i int32, key int64) {
	h.ties++
	h.slots[i].key, h.slots[i].tie = key, h.ties
	h.settle(int(i))
}

// remove takes the item at i out.
func (h *heap[T]) remove(i int32) {
	last := len(h.slots) - 1
	h.slots[i].item.setIndex(-1)
	s := h.slots[last]
	h.slots[last] = slot[T]{}
	h.slots = h.slots[:last]
	if int(i) < last {
		h.slots[i] = s
		h.settle(int(i))
	}
	// A burst must not keep its memory for ever.
	if c := cap(h.slots); c > 8192 && last < c/8 {
		h.slots = append(make([]slot[T], 0, c/4), h.slots...)
	}
}

func (h *heap[T]) settle(i int) {
	if i > 0 && h.slots[i].before(&h.slots[(i-1)/4]) {
		h.up(i)
	} else {
		h.down(i)
	}
}

// up moves the slot at i towards the root.
func (h *heap[T]) up(i int) {
	s := h.slots[i]
	for i > 0 {
		parent := (i - 1) / 4
		if !s.before(&h.slots[parent]) {
			break
		}
		h.put(i, h.slots[parent])
		i = parent
	}
	h.put(i, s)
}

func (h *heap[T]) down(i int) {
	s := h.slots[i]
	for {
		first := 4*i + 1
		if first >= len(h.slots) {
			break
		}
		least := first
		for child := first + 1; child < min(first+4, len(h.slots)); child++ {
			if h.slots[child].before(&h.slots[least]) {
				least = child
			}
		}
		if !h.slots[least].before(&s) {
			break
		}
		h.put(i, h.slots[least])
		i = least
	}
	h.put(i, s)
}

func (h *heap[T]) put(i int, s slot[T]) {
	h.slots[i] = s
	s.item.setIndex(int32(i))
}
