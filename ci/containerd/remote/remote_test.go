package remote

import "testing"

func TestAStatusBecomesACode(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		code int
		bad  bool
	}{
		"success is 0":                       {`{"status":"Success"}`, 0, false},
		"a code is read from the causes":     {`{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}`, 7, false},
		"a failure without code is an error": {`{"status":"Failure","reason":"InternalError","message":"no such process"}`, 0, true},
		"no status is an error":              {`{}`, 0, true},
		"what is no JSON is an error":        {`exit 7`, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := parseStatus([]byte(c.text))
			code := 0
			if err == nil {
				code, err = s.Code()
			}
			if (err != nil) != c.bad || code != c.code {
				t.Errorf("got %d, %v", code, err)
			}
		})
	}
}

func FuzzParseStatus(f *testing.F) {
	f.Add([]byte(`{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}`))
	f.Add([]byte("")) // how a channel is opened
	f.Fuzz(func(t *testing.T, b []byte) {
		if channel, payload, ok := split(b); ok && len(payload)+1 != len(b) {
			t.Errorf("channel %d lost bytes", channel)
		}
		if s, err := parseStatus(b); err == nil {
			_, _ = s.Code() // must not panic
		}
	})
}
