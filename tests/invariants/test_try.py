def test_a(original):
    assert original.model
