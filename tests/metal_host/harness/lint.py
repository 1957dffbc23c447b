def check_language(name, header, source):
    pass


def check_address_spaces(text):
    pass
