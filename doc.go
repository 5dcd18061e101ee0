// Package flux limits work per key: so many tokens per period for each tenant,
// with a burst, exactly.
package flux
