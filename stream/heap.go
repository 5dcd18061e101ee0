package stream

// heap is a min-heap of items, any of which can be moved or removed in O(log n)
// by the index that it is told when it is put in. Equal keys leave in the order in
// which they were put in. It has four children per node: that halves the depth,
// and four siblings fill a cache line, as what is moved has no pointers and the
// items themselves are left alone.
//
// Keys are compared by their difference, so they may wrap around as long as any
// two in the heap lie within 2⁶³ of each other.
type heap[T interface{ setIndex(i int32) }] struct {
	slots []slot
	items []T     // by their index
	at    []int32 // the slot of an item; of an index that is free, the complement of the next
	free  int32   // complement of the first index that is free, 0: none is
	ties  uint32
}

// slot keeps the key beside the index of the item, so that comparing does not
// touch items.
type slot struct {
	key  int64
	tie  uint32
	item int32
}

func (a *slot) before(b *slot) bool {
	if a.key != b.key {
		return a.key-b.key < 0
	}
	return int32(a.tie-b.tie) < 0
}

func (h *heap[T]) len() int { return len(h.slots) }

// top returns the item with the smallest key of a heap that is not empty.
func (h *heap[T]) top() (item T, key int64) { return h.items[h.slots[0].item], h.slots[0].key }

// next returns the smallest key of a heap that is not empty.
func (h *heap[T]) next() int64 { return h.slots[0].key }

// key returns the key of the item with an index.
func (h *heap[T]) key(i int32) int64 { return h.slots[h.at[i]].key }

func (h *heap[T]) push(item T, key int64) {
	var i int32
	if h.free != 0 {
		i = ^h.free
		h.free = h.at[i]
		h.items[i] = item
	} else {
		i = int32(len(h.items))
		h.items, h.at = append(h.items, item), append(h.at, 0)
	}
	item.setIndex(i)
	h.ties++
	h.slots = append(h.slots, slot{key: key, tie: h.ties, item: i})
	h.up(len(h.slots) - 1)
}

// fix gives the item with an index another key.
func (h *heap[T]) fix(i int32, key int64) {
	h.ties++
	s := &h.slots[h.at[i]]
	s.key, s.tie = key, h.ties
	h.settle(int(h.at[i]))
}

// remove takes the item with an index out.
func (h *heap[T]) remove(i int32) {
	at, last := int(h.at[i]), len(h.slots)-1
	h.items[i].setIndex(-1)
	var none T
	h.items[i] = none
	h.at[i], h.free = h.free, ^i
	s := h.slots[last]
	h.slots = h.slots[:last]
	if at < last {
		h.slots[at] = s
		h.settle(at)
	}
	if c := cap(h.slots); c > 8192 && last < c/8 {
		h.shrink(c / 4)
	}
}

// shrink makes room for no more than so many items: a burst must not keep its
// memory for ever.
func (h *heap[T]) shrink(size int) {
	items := make([]T, len(h.slots), size)
	slots := append(make([]slot, 0, size), h.slots...)
	at := make([]int32, len(h.slots), size)
	for i := range slots {
		s := &slots[i]
		items[i], at[i] = h.items[s.item], int32(i)
		items[i].setIndex(int32(i))
		s.item = int32(i)
	}
	h.slots, h.items, h.at, h.free = slots, items, at, 0
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

func (h *heap[T]) put(i int, s slot) {
	h.slots[i] = s
	h.at[s.item] = int32(i)
}
