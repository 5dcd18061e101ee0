package stream

import "fmt"

// Order says which messages are processed one after another. The package's
// documentation says what is promised of them.
type Order uint8

const (
	// Unordered messages are processed in any order, as many of them at once as
	// there are workers.
	Unordered Order = iota + 1
	// PerKey processes those of the same order key of a tenant one after
	// another. Keys of a tenant that have work take turns.
	PerKey
	// PerTenant processes those of the same tenant one after another.
	PerTenant
)

var orderNames = [...]string{Unordered: "unordered", PerKey: "per_key", PerTenant: "per_tenant"}

// String returns the order's stable name, as in "per_key".
func (o Order) String() string {
	if int(o) < len(orderNames) && orderNames[o] != "" {
		return orderNames[o]
	}
	return fmt.Sprintf("order(%d)", uint8(o))
}

// orderKey returns the order key of a message of a tenant, "" if it has none.
func (cfg *Config[M]) orderKey(tenant string, m M) string {
	switch {
	case tenant == "":
		return ""
	case cfg.Order == PerKey:
		return cfg.OrderKey(m)
	case cfg.Order == PerTenant:
		return tenant
	}
	return ""
}
