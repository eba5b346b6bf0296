package bugreport

import (
	"encoding/json"
	"strings"
	"testing"
)

// planted is in every secret of the tests, and in nothing that is to stay.
const planted = "hunter2"

// texts are what hosts have in their files and logs. All of keep stays.
var texts = []struct{ text, keep string }{
	{"[plugins.\"io.containerd.grpc.v1.cri\".registry.configs.\"r.example\".auth]\n  username = \"u\"\n  password = " +
		"\"hunter2\"\n  auth = \"aHVudGVyMg-hunter2\"\n", "username = \"u\""},
	{"DB_PASSWORD=hunter2 PATH=/usr/bin", "PATH=/usr/bin"},
	{"export AWS_SECRET_ACCESS_KEY='hunter2 with blanks'\nHOME=/root", "HOME=/root"},
	{`time="2026-01-01" level=info msg="GET https://user:hunter2@r.example/v2/" name=x`, "r.example/v2/\" name=x"},
	{`level=debug msg="Authorization: Bearer hunter2.abc-def" pid=7`, "pid=7"},
	{`msg="{\"name\":\"API_TOKEN\",\"value\":\"hunter2\"},{\"name\":\"HOME\",\"value\":\"/root\"}"`, `\"/root\"`},
	{`{"auths": {"r.example": {"auth": "hunter2hunter2"}}} after`, "r.example"},
	{"qemu -object secret,id=s --password hunter2 -m 256M", "-m 256M"},
	{"-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\nhunter2\n-----END OPENSSH PRIVATE KEY-----\nafter", "after"},
	{"-----BEGIN EC PRIVATE KEY-----\nhunter2\nand cut off", ""},
	{"kernel_params = \"agent.log=debug my.token=hunter2 quiet\"", "agent.log=debug"},
	{"- name: DB_PASSWORD\n  value: hunter2\n- name: HOME\n  value: /root", "value: /root"},
	{"secretkey: hunter2\nother: stays", "other: stays"},
	{`annotation password="hunter2 two words" next=1`, "next=1"},
	{"curl -u x --oauth-token hunter2 https://r.example/", "https://r.example/"},
}

func TestSecretsAreTakenOutOfText(t *testing.T) {
	for _, x := range texts {
		r := &redactor{taken: map[string]int{}}
		got := string(r.text([]byte(x.text)))
		if strings.Contains(got, planted) || len(r.taken) == 0 {
			t.Errorf("%q became %q, %v", x.text, got, r.taken)
		}
		if !strings.Contains(got, x.keep) {
			t.Errorf("%q became %q, which lacks %q", x.text, got, x.keep)
		}
	}
	for _, token := range []string{
		"eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJodW50ZXIyIn0.c2lnbmF0dXJl", "AKIAIOSFODNN7EXAMPLE",
		"ghp_" + strings.Repeat("a", 36), "glpat-aaaaaaaaaaaaaaaaaaaa", "AGE-SECRET-KEY-1QQQQQQQQQQ",
		"K10" + strings.Repeat("0a", 32) + "::server:abc",
	} {
		r := &redactor{taken: map[string]int{}}
		if got := string(r.text([]byte("before " + token + " after"))); strings.Contains(got, token[3:]) ||
			!strings.HasPrefix(got, "before ") || !strings.HasSuffix(got, " after") {
			t.Errorf("%q became %q", token, got)
		}
	}
}

func TestWhatIsNoSecretStays(t *testing.T) {
	for _, s := range []string{
		"level=info msg=\"the guest is what its manifest says\" guest=default claims=21",
		"root=PARTUUID=b0c1 dm-mod.create=\"dmverity,,,ro\" sha256:9b91ee7c3cbf1a9a7ae2",
		"author: somebody\nauthority of the certificate: x", "the token bucket of the interface",
		"https://r.example/path?x=1", "-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----",
	} {
		r := &redactor{taken: map[string]int{}}
		if got := string(r.text([]byte(s))); got != s {
			t.Errorf("%q became %q", s, got)
		}
	}
}

func TestSecretsAreTakenOutOfJSON(t *testing.T) {
	inner := `{"spec":{"env":[{"name":"DB_PASSWORD","value":"hunter2"}]}}`
	b, err := json.Marshal(map[string]any{
		"annotations": map[string]any{"kubectl.kubernetes.io/last-applied-configuration": inner, "other": inner,
			"io.katacontainers.config.hypervisor.kernel_params": "quiet a.password=hunter2"},
		"env": []any{map[string]any{"name": "SESSION_TOKEN", "value": "hunter2"},
			map[string]any{"name": "A", "value": "stays"}},
		"password": "hunter2", "tokens": []any{"hunter2"}, "enabled_tokens": true, "size": 12345678901234567,
		"command": []any{"x", "--url=https://a:hunter2@r.example/"},
	})
	if err != nil {
		t.Fatal(err)
	}
	r := &redactor{taken: map[string]int{}}
	got := string(r.document(b))
	if strings.Contains(got, planted) {
		t.Error(got)
	}
	for _, keep := range []string{`"stays"`, `"enabled_tokens": true`, "12345678901234567", "quiet", "r.example"} {
		if !strings.Contains(got, keep) {
			t.Errorf("no %s in %s", keep, got)
		}
	}
	if !json.Valid([]byte(got)) {
		t.Error("it is no JSON any more")
	}
	if s := r.String(); s != "7 secrets" {
		t.Errorf("%s: %v", s, r.taken)
	}
}

func FuzzRedact(f *testing.F) {
	for _, x := range texts {
		f.Add([]byte(x.text))
	}
	f.Add([]byte(`{"a": [1, {"password": "x"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := &redactor{taken: map[string]int{}}
		once := r.document(b)
		if json.Valid(b) && !json.Valid(once) {
			t.Errorf("%q became %q, which is no JSON", b, once)
		}
	})
}
