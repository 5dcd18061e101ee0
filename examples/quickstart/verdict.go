package main

import (
	"fmt"
	"strings"
)

// verdict says in one sentence what the reader has just seen. It claims nothing
// that the figures do not show.
func (r *report) verdict() string {
	noisy, others := r.tenants[0], r.tenants[1:]
	if total(r.tenants).Published == 0 {
		return "The run ended before anything was sent."
	}
	clauses := []string{r.ofNoisy(noisy)}
	if total(others).Published > 0 {
		clauses = append(clauses, ofOthers(others))
	}
	if over := total(r.tenants).MaxRateExcess; over > 0 {
		clauses = append(clauses, fmt.Sprintf("but a limit was exceeded by %.3g messages, which must never happen: please report it", over))
	}
	switch n := r.unaccounted; {
	case n == 0:
		clauses = append(clauses, "nothing was lost")
	case n > 0:
		clauses = append(clauses, fmt.Sprintf("but %s cannot be accounted for, which must never happen: please report it", messages(n)))
	default:
		clauses = append(clauses, fmt.Sprintf("but the streams hold or settled %s more than were sent: some were processed twice, or are somebody else's", messages(-n)))
	}
	return strings.Join(clauses, "; ") + "."
}

func (r *report) ofNoisy(t row) string {
	allowed := r.allowed()
	if t.Published <= allowed {
		return fmt.Sprintf("The noisy tenant kept to its limit and had %s processed", portion(t.Processed, t.Published))
	}
	s := fmt.Sprintf("The noisy tenant sent %s where its limit allows %s, and %s were processed", messages(t.Published), grouped(allowed), grouped(t.Processed))
	var surplus []string
	if t.DeadLettered > 0 {
		s := grouped(t.DeadLettered) + " dead-lettered"
		if t.expired == t.DeadLettered {
			s += fmt.Sprintf(" instead of waiting longer than %v", maxAge)
		}
		surplus = append(surplus, s)
	}
	if t.Waiting > 0 {
		surplus = append(surplus, grouped(t.Waiting)+" still waiting their turn")
	}
	if len(surplus) > 0 {
		s += " (" + strings.Join(surplus, ", ") + ")"
	}
	return s
}

func ofOthers(rows []row) string {
	sum := total(rows)
	who, whose := fmt.Sprintf("the %d others", len(rows)), "each one's"
	if len(rows) == 1 {
		who, whose = "the other tenant", "them"
	}
	s := fmt.Sprintf("meanwhile %s of %s were processed", portion(sum.Processed, sum.Published), who)
	if sum.DwellP99 > 0 {
		s += fmt.Sprintf(", 99 %% of %s within %s of being sent", whose, brief(sum.DwellP99))
	}
	if sum.DeadLettered > 0 {
		s += fmt.Sprintf(", and %s dead-lettered", grouped(sum.DeadLettered))
	}
	return s
}

// portion writes how many of all are done, as in "all 12 messages".
func portion(done, all int64) string {
	if done == all && all > 1 {
		return "all " + messages(all)
	}
	return fmt.Sprintf("%s of %s", grouped(done), messages(all))
}

func messages(n int64) string {
	if n == 1 {
		return "1 message"
	}
	return grouped(n) + " messages"
}
