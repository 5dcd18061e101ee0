package compose

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
)

func load(t *testing.T, content []byte) (*types.Project, error) {
	t.Helper()
	return loader.LoadWithContext(t.Context(), types.ConfigDetails{
		WorkingDir:  t.TempDir(),
		ConfigFiles: []types.ConfigFile{{Filename: "docker-compose.yml", Content: content}},
	})
}

// TestCompose holds docker-compose.yml to the schema, and to images that are
// pinned, healthchecks, and ports that only this machine can reach.
func TestCompose(t *testing.T) {
	content, err := os.ReadFile(filepath.Join("..", "..", "..", "docker-compose.yml"))
	if err != nil {
		t.Fatal(err)
	}
	project, err := load(t, content)
	if err != nil {
		t.Fatal(err)
	}
	pinned := regexp.MustCompile(`^[a-z/]+:\d+\.\d+\.\d+[a-z-]*$`)
	for _, name := range []string{"kafka", "nats"} {
		s, ok := project.Services[name]
		switch {
		case !ok:
			t.Errorf("no service %s", name)
			continue
		case !pinned.MatchString(s.Image):
			t.Errorf("%s: image %q is not pinned", name, s.Image)
		case s.HealthCheck == nil || len(s.HealthCheck.Test) < 2 || s.HealthCheck.Retries == nil:
			t.Errorf("%s: no healthcheck", name)
		}
		for _, p := range s.Ports {
			if p.HostIP != "127.0.0.1" {
				t.Errorf("%s: port %s is open to the network", name, p.Published)
			}
		}
		for _, v := range s.Volumes {
			if _, ok := project.Volumes[v.Source]; !ok {
				t.Errorf("%s: no volume %s", name, v.Source)
			}
		}
	}

	// The brokers are of the versions that the tests run on.
	for name, other := range map[string]string{
		"kafka": filepath.Join("..", "kafka.pom.xml"),
		"nats":  filepath.Join("..", "..", "..", "go.mod"),
	} {
		text, err := os.ReadFile(other)
		if err != nil {
			t.Fatal(err)
		}
		_, version, _ := strings.Cut(project.Services[name].Image, ":")
		version, _, _ = strings.Cut(version, "-")
		if !strings.Contains(string(text), "<version>"+version+"<") && !strings.Contains(string(text), "nats-server/v2 v"+version) {
			t.Errorf("%s: %s has another version than %s", name, other, version)
		}
	}

	// The schema would tell: a misspelt key is refused.
	if _, err := load(t, []byte(strings.Replace(string(content), "healthcheck:", "healthchek:", 1))); err == nil {
		t.Error("a misspelt key is accepted")
	}
}
