# app        the application: one client, three endpoints.
# streaming  answers that hold a scan open while they are sent.
